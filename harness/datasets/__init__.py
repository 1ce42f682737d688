"""One module per dataset format; each exports one generator `(path, **options) -> Iterator[Sample]` in a fixed order."""
