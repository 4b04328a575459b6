"""The report: tables, figures and a page, all made of a `Summary`.

`tables` says what is shown, out of `cells`; `charts` draws and `figures` chooses; `findings` are the sentences at the
top, `samples` the episodes at the end; `page` puts it together and `write` writes it.
"""
