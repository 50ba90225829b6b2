"""What deploy/ promises: manifests for Kubernetes, a script for Slurm."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import suppress

import kubernetes_validate
import pytest
import yaml

from hpo.cli import parser
from hpo.study.study_file import read_study_file
from hpo.supervision.supervisor import STOP_SECONDS
from tests.conftest import ROOT
from tests.support.waiting import limit, wait_until

pytestmark = pytest.mark.unit

KUBERNETES, SLURM = ROOT / "deploy/kubernetes", ROOT / "deploy/slurm/hpo.sbatch"
PAGE = (ROOT / "docs/clusters.md").read_text()
OPERATORS = {"Cluster"}  # kinds of operators, whose schemas are not Kubernetes' own
CHOICES = {
    "as it stands": ("artifacts-volume",),
    "all else": ("artifacts-s3", "postgres", "ingress"),
}


@pytest.fixture(scope="module", params=CHOICES.values(), ids=list(CHOICES))
def manifests(request, tmp_path_factory):
    """All that `kubectl apply -k` would apply, with these components."""
    if not shutil.which("kubectl"):
        pytest.skip("there is no kubectl here, which renders the manifests")
    folder = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(KUBERNETES, folder)
    file = folder / "kustomization.yaml"
    chosen = file.read_text()
    for line, name in re.findall(r"^(  (?:# )?- components/([\w-]+) )", chosen, re.MULTILINE):
        chosen = chosen.replace(line, f"  {'' if name in request.param else '# '}- components/{name} ")
    file.write_text(chosen)
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def pods(manifests):
    """The pods' templates by the names of what makes them."""
    makers = [one for one in manifests if one["kind"] in ("Job", "Deployment")]
    return {one["metadata"]["name"]: one["spec"]["template"] for one in makers}


def containers(manifests):
    """All containers of all pods."""
    specs = [template["spec"] for template in pods(manifests).values()]
    return [one for spec in specs for one in (*spec["containers"], *spec.get("initContainers", ()))]


def find(manifests, kind, name):
    """The one manifest of this kind and name."""
    [found] = [one for one in manifests if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def variables(manifests):
    """The environment of all containers."""
    named = {entry["name"]: entry.get("value") for one in containers(manifests) for entry in one.get("env", ())}
    return {**find(manifests, "ConfigMap", "hpo-environment")["data"], **named}


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_the_manifests_are_what_kubernetes_takes(manifests, version):
    """Each rendered manifest fits the schema of the oldest Kubernetes that is promised, and of a new one."""
    assert "Kubernetes 1.29" in PAGE
    for manifest in manifests:
        if manifest["kind"] not in OPERATORS:
            assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_pods_are_as_locked_up_as_the_restricted_standard_wants(manifests):
    """No pod runs as root or may become it; none can write to its image or speak to Kubernetes."""
    dockerfile = (ROOT / "deploy/image/Dockerfile").read_text()
    user = int(re.search(r"^USER (\d+)", dockerfile, re.MULTILINE)[1])
    home = re.search(r"\bHOME=(\S+)", dockerfile)[1]
    assert pods(manifests)
    assert containers(manifests)
    for template in pods(manifests).values():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == user
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
    for container in containers(manifests):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert {home, "/tmp", "/work"} <= writable


def test_no_manifest_holds_a_secret_and_each_one_that_is_named_is_explained(manifests):
    """No manifest is a Secret or holds a password; the page says how to make those that pods mount."""
    assert "Secret" not in {one["kind"] for one in manifests}
    assert not re.search(r"password *[:=]|://[^/ ]*:[^/ ]*@", yaml.safe_dump_all(manifests))
    made = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    for template in pods(manifests).values():
        for volume in template["spec"]["volumes"]:
            secrets = [volume["secret"]["secretName"]] if "secret" in volume else []
            secrets += [source["secret"]["name"] for source in volume.get("projected", {}).get("sources", ())]
            for name in secrets:
                assert f"create secret generic {name} " in PAGE or name.startswith("hpo-postgres-")
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in made
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in made
    cluster = [one["metadata"]["name"] for one in manifests if one["kind"] == "Cluster"]
    assert cluster in ([], ["hpo-postgres"])


def test_every_command_and_variable_of_the_manifests_exists(manifests):
    """Each container runs a command that hpo has, and sets only variables that hpo or a library of its reads."""
    cli = (ROOT / "hpo/cli.py").read_text()
    assert containers(manifests)
    assert variables(manifests)
    for container in containers(manifests):
        command = container["command"]
        line = command[2] if command[0] == "sh" else shlex.join(command)
        [arguments] = re.findall(r"\bhpo ([^;&]+)", line)
        parser().parse_args(shlex.split(arguments))
    for name in variables(manifests):
        assert f'"{name}"' in cli or name.startswith(("AWS_", "PGSSL")), name


@pytest.mark.parametrize(("name", "hpo"), [("wait-for-study", 1), ("hpo-export", 0), ("hpo-export", None)])
def test_a_shell_that_waits_ends_at_sigterm(manifests, tmp_path, name, hpo):
    """As PID 1 it would be deaf to it: it has a trap, which ends it while hpo runs and while it sleeps after that."""
    commands = {container["name"]: container["command"] for container in containers(manifests)}
    commands["hpo-export"] = pods(manifests)["hpo-export"]["spec"]["containers"][0]["command"]
    stand_in = tmp_path / "hpo"
    stand_in.write_text(f"#!/bin/sh\ntouch {tmp_path}/begun\n{'exec sleep 600' if hpo is None else f'exit {hpo}'}\n")
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen(commands[name], env=environment, start_new_session=True) as shell:
        wait_until((tmp_path / "begun").exists)
        begun = time.monotonic()
        shell.terminate()
        code = shell.wait(timeout=limit(10))
        with suppress(ProcessLookupError):  # where nothing is left of it
            os.killpg(shell.pid, signal.SIGKILL)
    assert code == 128 + signal.SIGTERM  # and not killed by it, as a shell without a trap is that is not PID 1
    assert time.monotonic() - begun < limit(5)


def test_an_export_that_fails_is_a_failed_job(manifests, tmp_path):
    """The pod of `hpo export-best` ends with its exit code, and does not sleep on a GPU."""
    (tmp_path / "hpo").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "hpo").chmod(0o755)
    [container] = pods(manifests)["hpo-export"]["spec"]["containers"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(container["command"], env=environment, check=False, timeout=limit(30)).returncode == 3


def test_a_worker_has_a_gpu_and_the_time_to_hand_its_trial_back(manifests):
    """A worker's pod asks for one GPU and may take longer to end than `hpo workers` ever does."""
    job = find(manifests, "Job", "hpo-workers")
    spec = job["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] >= STOP_SECONDS + 15
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert spec["containers"][0]["command"][-2:] == ["--workers", "1"]


def test_the_workers_job_ends_with_the_search_and_outlives_preemption(manifests):
    """It is a work queue, whose pods are never started again after a success, and interruptions are no failures."""
    job = find(manifests, "Job", "hpo-workers")["spec"]
    assert "completions" not in job
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # what podFailurePolicy wants
    ignored = [rule for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "Ignore"]
    assert {"type": "DisruptionTarget", "status": "True"} in ignored[0]["onPodConditions"]
    assert ignored[1]["onExitCodes"]["values"] == [128 + signal.SIGTERM]
    assert "containerName" not in ignored[1]["onExitCodes"]  # the one that waits for the study is ended so, too


def test_a_drained_node_leaves_a_worker_at_work_and_can_always_be_drained(manifests):
    """The disruption budget selects the workers alone, by a number, and allows at least one of them to go."""
    budget = find(manifests, "PodDisruptionBudget", "hpo-workers")["spec"]
    wanted = budget["selector"]["matchLabels"].items()
    chosen = [name for name, template in pods(manifests).items() if wanted <= template["metadata"]["labels"].items()]
    assert chosen == ["hpo-workers"]
    assert 1 <= budget["minAvailable"] < find(manifests, "Job", "hpo-workers")["spec"]["parallelism"]


def test_the_service_finds_the_dashboard(manifests):
    """The Service selects the dashboard's pod and its port, and the probes ask a path that needs no password."""
    template = pods(manifests)["hpo-dashboard"]
    service = find(manifests, "Service", "hpo-dashboard")["spec"]
    assert service["selector"].items() <= template["metadata"]["labels"].items()
    [container] = template["spec"]["containers"]
    assert {port["name"] for port in container["ports"]} == {port["targetPort"] for port in service["ports"]}
    assert container["livenessProbe"]["httpGet"] == container["readinessProbe"]["httpGet"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/healthz"


def test_nothing_but_the_ingress_controller_reaches_a_dashboard_that_believes_it(manifests):
    """Where it believes any proxy, a NetworkPolicy lets only the pods of one named Ingress controller to its port."""
    template = pods(manifests)["hpo-dashboard"]
    [container] = template["spec"]["containers"]
    ingresses = [one for one in manifests if one["kind"] == "Ingress"]
    assert ("--proxy" in container["command"]) is bool(ingresses)
    for ingress in ingresses:
        assert ingress["spec"]["ingressClassName"]
        policy = find(manifests, "NetworkPolicy", "hpo-dashboard")["spec"]
        assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert policy["policyTypes"] == ["Ingress"]
        [rule] = policy["ingress"]
        [sender] = rule["from"]  # one entry: of that namespace and these pods, and not of either
        assert sender["namespaceSelector"]["matchLabels"]
        assert sender["podSelector"]["matchLabels"]
        assert [port["port"] for port in rule["ports"]] == [container["ports"][0]["name"]]


def test_the_study_file_for_kubernetes_is_good(manifests):
    """It has no mistake, and its images are where the pods have them."""
    file = read_study_file(KUBERNETES / "study.toml")
    assert find(manifests, "ConfigMap", "hpo-study")["data"]["study.toml"] == (KUBERNETES / "study.toml").read_text()
    for template in pods(manifests).values():
        mounts = {mount["name"]: mount["mountPath"] for mount in template["spec"]["containers"][0]["volumeMounts"]}
        assert mounts["data"] == str(file.data.path)


def test_the_directives_of_the_slurm_script():
    """A job of an array has one GPU, is told a minute before its time is up, and may be queued again."""
    lines = [line.split(" #")[0].split()[1:] for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH ")]
    directives = dict(argument.partition("=")[::2] for [argument] in lines)
    assert directives["--signal"] == "TERM@60"
    assert directives["--gres"] == "gpu:1"
    assert {"--array", "--requeue", "--cpus-per-task", "--mem", "--time"} <= set(directives)
    assert directives["--open-mode"] == "append"
    assert directives["--output"] == "hpo-%A_%a.log"


class Job:
    """The Slurm script in a folder, with stand-ins for Slurm's programs and for hpo on its path."""

    def __init__(self, folder, *, state="RUNNING", hpo="exit 0"):
        self.folder, self.calls = folder, folder / "calls"
        (folder / "node").mkdir()
        (folder / "study.toml").write_text("[data]\n")
        self.add("srun", 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"')
        self.add("squeue", f'echo "squeue $*" >> {self.calls}; echo {state}')
        self.add("scontrol", f'echo "scontrol $*" >> {self.calls}')
        self.add("hpo", f'echo "hpo $*" >> {self.calls}; cat "$2" > {folder}/seen; {hpo}')

    def add(self, name, line):
        """Put a program onto its path."""
        (self.folder / "bin").mkdir(exist_ok=True)
        file = self.folder / "bin" / name
        file.write_text(f"#!/bin/bash\n{line}\n")
        file.chmod(0o755)

    def begin(self, *arguments, **more):
        """Start the script as Slurm does."""
        environment = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "node"),
            "HPO_ARTIFACTS": str(self.folder / "artifacts"),
            "SLURM_JOB_ID": "71",
            "SLURM_ARRAY_JOB_ID": "71",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_CPUS_PER_TASK": "8",
        }
        return subprocess.Popen(
            ["bash", SLURM, *arguments],
            cwd=self.folder,
            env={**environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def called(self, program):
        """With what a program was called, call by call."""
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line.removeprefix(f"{program} ") for line in calls if line.startswith(f"{program} ")]


@pytest.mark.parametrize(
    ("code", "state", "requeued"),
    [
        (143, "RUNNING", ["requeue 71_3"]),  # the time is nearly up
        (143, "COMPLETING", []),  # scancel, or Slurm has queued it again by itself
        (0, "RUNNING", []),  # the search is over
        (1, "RUNNING", []),  # something is wrong that another start would not put right
        (137, "RUNNING", []),
    ],
)
def test_a_job_that_was_interrupted_queues_itself_again(tmp_path, code, state, requeued):
    """Only a task that hpo left by SIGTERM while Slurm has it running is queued again: it, and not the whole array."""
    job = Job(tmp_path, state=state, hpo=f"exit {code}")
    with job.begin("study.toml") as script:
        out, _ = script.communicate(timeout=limit(30))
    assert script.returncode == code, out
    assert job.called("scontrol") == requeued
    assert job.called("squeue") == (["--noheader --jobs=71_3 --format=%T"] if code == 143 else [])


@pytest.mark.parametrize(
    ("program", "failures", "requeued"), [("squeue", 2, True), ("scontrol", 2, True), ("squeue", 9, False)]
)
def test_a_slurm_that_does_not_answer_is_asked_again(tmp_path, program, failures, requeued):
    """A task is queued again also where Slurm answers only later; where it never does, the log says what is lost."""
    job = Job(tmp_path, hpo="exit 143")
    file = tmp_path / "bin" / program
    answer = file.read_text().removeprefix("#!/bin/bash\n")
    job.add(program, f'echo >> {tmp_path}/asked; [ "$(wc -l < {tmp_path}/asked)" -gt {failures} ] || exit 1; {answer}')
    job.add("sleep", "exit 0")
    with job.begin("study.toml") as script:
        out, _ = script.communicate(timeout=limit(30))
    assert script.returncode == 143, out
    assert job.called("scontrol") == (["requeue 71_3"] if requeued else [])
    assert ("task 71_3 is not queued again" in out) is not requeued


def test_a_job_works_on_a_disk_of_its_node_and_leaves_nothing_there(tmp_path):
    """hpo gets a copy of the study file, under its name, in a folder of its own that is gone afterwards."""
    job = Job(tmp_path)
    with job.begin("study.toml") as script:
        out, _ = script.communicate(timeout=limit(30))
    assert script.returncode == 0, out
    [call] = job.called("hpo")
    assert re.fullmatch(rf"workers {tmp_path}/node/hpo-\w+/study\.toml", call)
    assert (tmp_path / "seen").read_text() == "[data]\n"
    assert list((tmp_path / "node").iterdir()) == []


def test_the_script_outlives_a_signal_until_hpo_has_ended(tmp_path):
    """SIGTERM to hpo and to the script at once: the script waits for hpo's end, and ends with its exit code."""
    on_term = f"trap 'sleep 0.5; touch {tmp_path}/done; kill $!; exit 143' TERM"
    job = Job(tmp_path, hpo=f"{on_term}; echo $$ > {tmp_path}/pid; sleep 9 & wait")
    with job.begin("study.toml") as script:
        pid = int(wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
        script.send_signal(signal.SIGTERM)
        os.kill(pid, signal.SIGTERM)
        out, _ = script.communicate(timeout=limit(30))
    assert script.returncode == 143, out
    assert (tmp_path / "done").exists()
    assert job.called("scontrol") == ["requeue 71_3"]


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        ([], {}, "usage: sbatch hpo.sbatch STUDY.toml"),
        (["nowhere/study.toml"], {}, "No such file"),
        (["study.toml"], {"HPO_ARTIFACTS": ""}, "a folder that all nodes reach, or s3://BUCKET/PREFIX"),
        (["study.toml"], {"TMPDIR": "/nowhere"}, "No such file"),
    ],
)
def test_a_job_without_what_it_needs_ends_at_once(tmp_path, arguments, variables, told):
    """Without a study file, a place for files or a disk of the node the script says so, and runs nothing."""
    job = Job(tmp_path)
    with job.begin(*arguments, **variables) as script:
        out, _ = script.communicate(timeout=limit(30))
    assert script.returncode not in (0, 143)
    assert told in out
    assert job.called("hpo") == []


def test_a_checkout_on_windows_has_the_scripts_as_they_are(tmp_path):
    """With `core.autocrlf = true` no file that goes into the image, and no shell script, gets other ends of lines."""
    git = ("git", "-c", "core.autocrlf=true", "-c", "user.name=a", "-c", "user.email=a@example.org")
    for name in ("deploy", "hpo"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitattributes", "pyproject.toml", "docker-compose.yml"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path)
    for arguments in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "all")):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    files = [file for file in tmp_path.rglob("*") if file.is_file() and ".git" not in file.parts]
    for file in files:
        file.unlink()
    subprocess.run([*git, "checkout", "--quiet", "--", "."], cwd=tmp_path, check=True)
    assert tmp_path / "deploy/image/entrypoint.sh" in files
    assert [file for file in files if b"\r\n" in file.read_bytes()] == []
