"""Lists for millions of users, part by part: files of histories are read, and files of lists written, piece by piece.

batch       one function from an Arrow record batch of histories to one of lists; a cluster's adapter calls it too
parts       the files of histories, and from their rows to record batches with a row for each user
users       whether a user's rows are all in one place, by one pass over the users before any work
ordered     rows that are not: one part in memory, or everything on disk (``sort``)
ledger      the finished parts, by which ``resume`` goes on
walk        from a folder of histories to a folder of lists
"""
