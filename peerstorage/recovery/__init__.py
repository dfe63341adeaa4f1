"""The way back: returned backups are merged, peers are held off while data is lost, and brought to close at the
end.

Who is let in meanwhile, what is handed to recoverchannel, and what the operator is told of each channel is
decided here. Never here: a backup that goes out.
"""
