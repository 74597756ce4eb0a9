"""The driver, the lanes, the record and the trial: everything that runs a study."""
