"""From ratings files to prepared datasets: readers, filters, splits and the dataset folder."""
