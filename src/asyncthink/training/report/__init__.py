"""The report of trainings: what metrics.jsonl of one run or several says, as curves and tables.

`measures` says what is shown, `runs` reads, `curves` counts, `chart` draws, `tables` has the figures, `page` puts it
together and `write` writes it. Nothing here needs torch, or a package that draws.
"""
