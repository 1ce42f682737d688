"""One module per way to run an extraction; each exports one function `(job, shards, **options)` that gives shards as they are done."""
