"""Notebooks' kernels that need not wait for PyTorch: forked from the server of `forked`.

    NotebookClient(notebook, kernel_manager_class=ForkedKernels)

A kernel reads the libraries' modules from the server, and our own files as a new Python does.
"""

import os
import signal

from forked import can_fork, kernel, server
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner


class Kernel:
    """What jupyter_client wants to know of a process, as `subprocess.Popen` tells it."""

    stdin = stdout = stderr = None

    def __init__(self, options, folder, environment):
        work = (options, str(folder or os.getcwd()), dict(environment))
        self.process = server.Process(target=kernel, args=work)
        self.process.start()
        self.pid = self.process.pid

    def poll(self):
        return self.process.exitcode

    def wait(self):
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class _Provisioner(LocalProvisioner):
    async def launch_kernel(self, cmd, **options):
        if not can_fork:
            return await super().launch_kernel(cmd, **options)
        given = cmd[cmd.index("ipykernel_launcher") + 1 :]
        self.process = Kernel(given, options.get("cwd"), options.get("env", os.environ))
        self.pid, self.cwd = self.process.pid, options.get("cwd")
        return self.connection_info


class ForkedKernels(AsyncKernelManager):
    """Starts kernels that are forked."""

    async def _async_pre_start_kernel(self, **options):
        if self.provisioner is None:
            self.provisioner = _Provisioner(
                kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self
            )
        return await super()._async_pre_start_kernel(**options)
