"""CSV, JSON Lines and Parquet as bytes to Arrow and back, for every connector that has such bytes.

``options``   how files are read and written, as a pipeline says it; a connector's options extend these
``input``     ``Input``: a file or a piece of one, wherever its bytes are
``reader``    ``Format``: schema, batches and cuts of files, and which format a file is of
``csv`` ``jsonl`` ``parquet``   a Format each
``types``     declared types, and types inferred from the values of text columns
``write``     writes one part from a stream into a pyarrow file object
``manifest``  what a target of immutable parts holds, as a value and as JSON

``reader`` says where a new format is registered.

What is not here: where the bytes are. A path, a glob, a folder, a bucket or a topic, its options, its listing, its
identity, and what makes a write durable are the connector's. Importing this package or ``options`` loads no pyarrow.
"""
