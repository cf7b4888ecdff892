"""Code, not files of data: tables in, tables out (pandas, pyarrow, NumPy; never torch)."""
