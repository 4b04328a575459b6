"""The counter: an OpenAI-compatible endpoint over an organization. docs/serving.md is its contract.

`app` has the routes, `security` stands before all of them; `request` and `response` are the language of clients,
`thinking` answers one of them, `thought` is its episode, `admission` says who may, `listening` is the process.
"""
