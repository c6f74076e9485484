"""What a curation did, on one page: ``python -m dinojax.curate page``."""
