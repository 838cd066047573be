"""The process that runs the method for one job. It knows no database: a request file in, JSON lines and files out.

It begins as one that fetches files and has the credentials for that, and becomes one that is confined to those files
(`worker.confinement`) and has no network.

`python -m worker.child REQUEST OUTPUT PIPE PARENT` is started by `worker.supervision.child_process`. REQUEST is a file
with a `ChildRequest`. The options of the places that the job reads, which may be secrets, come on standard input. Each
line written to PIPE is one `ChildMessage`.
"""
