"""What lies on the disk: files, runs, records, images, digests."""
