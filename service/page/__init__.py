"""The web page: static files that a browser runs, and what answers them. No build step."""
