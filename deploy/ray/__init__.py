"""sana-serve on Ray: `build` for Ray Serve (app.py), and a job for Ray Data (generate.py). Needs the extra `ray`."""
