"""The counter: an OpenAI-compatible endpoint over an organization. docs/serving.md is its contract.

`app` has the routes, `security` stands before all of them; `request` and `response` are the language of clients,
`thought` thinks one request through, `admission` says who may, `listening` is the process.
"""
