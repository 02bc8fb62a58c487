"""Everything on disk: files written atomically, output folders of runs, records, images, fingerprints."""
