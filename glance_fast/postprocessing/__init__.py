"""From the scores of the patches to an anomaly map, an image score, a decision and a result."""
