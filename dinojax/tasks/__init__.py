"""What frozen features are scored by: one module per task, one table (`table.TASKS`).

A task module holds two things:

1. ``XProtocol``, a frozen dataclass: everything that a value depends on besides backbone, records
   and preparation of the images (`task.Evaluation.protocol`). It becomes the section ``x`` of
   `dinojax.config.evaluation.EvalConfig`, so every field is a key ``--config.x.FIELD``; its values
   are printed and hashed with each score. Defaults are those of the published protocol where there
   is one.
2. ``X = Task(protocol=XProtocol, needs=..., run=_run)``. `needs` names what the records must have
   (`task.NEEDS`); records without it are refused before anything is computed. ``run(protocol,
   evaluation)`` yields `Score`s. What draws random numbers runs once per seed of ``protocol.seeds``
   (default 0, 1, 2) through `task.over_seeds`, which takes from ``evaluation.keep`` the seeds that
   a killed evaluation has finished: the value is the mean, the spread the standard deviation over
   seeds. What draws none has the spread None.

Then it gets a line in `table.TASKS`, a section in `EvalConfig` and, if it needs something new of
the records, a line in `dinojax.data.eval_records.NEEDS`. Maths on arrays belongs to
`dinojax.evaluation`, reading of files to `dinojax.data`; a task joins them.
"""
