"""The method: where the ROI lies, the two networks, post-processing. No files, threads or logs."""
