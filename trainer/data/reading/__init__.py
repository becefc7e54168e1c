"""Files and data sets as documents, and as rows with columns."""
