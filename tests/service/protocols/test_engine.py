"""Route tables: they learn new paths for ever, and never hold more than a bound."""

from service.protocols.engine import MAX_ROUTE_BYTES, MAX_ROUTES, remember


def test_a_table_of_routes_is_bounded_in_number_and_bytes() -> None:
    routes = {b"/predict": 0}
    for i in range(3 * MAX_ROUTES):
        remember(routes, b"/models/%d/predict" % i, i)
        assert b"/models/%d/predict" % i in routes
    assert len(routes) == MAX_ROUTES
    assert b"/predict" in routes
    remember(routes, b"/models/" + b"x" * MAX_ROUTE_BYTES, 1)
    assert max(map(len, routes)) <= MAX_ROUTE_BYTES
