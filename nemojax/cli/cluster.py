"""Flags that say which processes make a run together."""

from absl import flags

from nemojax.parallel import distributed

FLAGS = flags.FLAGS


def define() -> None:
    """Defines them; where a cluster is recognised none is needed."""
    flags.DEFINE_string("coordinator_address", None, "host:port of process 0")
    flags.DEFINE_integer("num_processes", None, "how many processes the run has")
    flags.DEFINE_integer("process_id", None, "number of this process, from 0")


def join() -> None:
    """Joins the processes of the run; before jax looks for its devices.

    Raises:
      UserError: some of the flags are missing.
    """
    given = (FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id)
    distributed.initialize(distributed.detect(*given))
