"""The classes with which an author defines a service."""

from chutes.chute.base import Chute, ChutePack
from chutes.chute.cord import Cord
from chutes.chute.job import Job, Port
from chutes.chute.node_selector import NodeSelector

__all__ = ["Chute", "ChutePack", "Cord", "Job", "NodeSelector", "Port"]
