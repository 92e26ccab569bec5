"""Feature extractors: uint8 images -> what a metric of sample quality compares."""
