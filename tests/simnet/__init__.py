"""A simulated Core Lightning daemon and network that run the real plugin as a process.

Network and Node speak lightningd's side of the plugin protocol and serve its RPC socket from memory. Their
state is plain attributes that tests read and change; calls are recorded; there is a knob for every fault.
"""

from .common import STORAGE_FEATURES, RpcError, Sent, wait_for
from .network import Network
from .node import Node
from .raw_peer import RawPeer

__all__ = ["STORAGE_FEATURES", "Network", "Node", "RawPeer", "RpcError", "Sent", "wait_for"]
