"""What a run's report shows and how it is drawn; `flows.report` decides when to write one."""
