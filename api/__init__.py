"""What is asked over HTTP under `/impasto/`: functions from a call to a reply, carried by `nodes/host/routes.py`."""
