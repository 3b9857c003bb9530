"""The batch scorer: images through a model into one table, without a server and without asyncio.

    find -> read -> decode -> run -> write -> join
            (files, archives,  (stages)  (parts, sinks)
             tables, arrays)

``find`` turns words of the command line into sources; a source streams its rows in chunks. ``job``
holds a job together and is the engine on this machine, ``cluster`` the one on Ray. Finished rows
are kept in ``parts``, from which a job that was killed goes on, and which become the table.
"""
