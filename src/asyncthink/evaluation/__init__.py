"""The measure: tasks x methods x models -> a run directory -> tables, figures and a report.

`recipe` says what is asked, `problems` which questions, `methods` and `plans` who answers and how, `preflight` what would go
wrong, `run` lets it happen, `board` shows how far it is, `rows` judges each episode, `statistics` and `summary` say
what it means, `report` shows it.
"""
