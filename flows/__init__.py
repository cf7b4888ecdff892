"""Prefect flows, MLflow and the command line: the only package that knows both others."""
