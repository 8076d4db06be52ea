"""From a run folder to a report: `frames` reads it, `stats` measures, `charts` draws, `report` renders.

Pure readers: nothing here writes into the record of a run, and the verdict is quoted, never decided.
"""
