"""Administration of a Kafka deployment: topics, consumer lag, replay, tail, dead letters.

Nothing here imports kafka-python before it connects, so the embedded host works without that package.
"""
