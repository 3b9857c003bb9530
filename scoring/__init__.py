"""The batch scorer: images through a model into one table, without a server and without asyncio.

    list -> read -> decode -> run -> write -> join
    (sources) (files, archives, (stages)  (parts, sinks)
               tables, arrays)

``sources`` turns arguments of the command line into sources; a source streams its rows in chunks.
``job`` runs the stages, with its own engine on this machine or with Ray's in ``cluster``. Finished
rows are kept in ``parts``: a killed job resumes from them, and they become the table. For standard
output ``stream`` takes their place, and rows appear as they are finished.

``foveal predict`` uses the model alone: ``local`` in this process, ``remote`` behind a service,
``predictions`` for what they return.
"""
