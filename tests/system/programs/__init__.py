"""Programs as users write them: only their first import says whose multiprocessing they use (see `test_programs`)."""
