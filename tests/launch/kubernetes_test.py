"""launch/k8s: valid MPIJobs that agree with the image, the claim and launch/local.sh."""
import os
import re
import subprocess
import unittest
from pathlib import Path

import jsonschema
import yaml

SOURCE = Path(os.environ["THRESHER_SOURCE_DIR"])
PROGRAM = Path(os.environ["THRESHER_BIN"]) / "thresher"
K8S = SOURCE / "launch/k8s"
STAGES = ("harvest", "train")


def load(name):
    return yaml.safe_load((K8S / name).read_text())


def validator():
    schema = yaml.safe_load((SOURCE / "tests/launch/mpijob.schema.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def problems(job, schema=None):
    return [f"{error.json_path}: {error.message}" for error in (schema or validator()).iter_errors(job)]


def operator_schema(path):
    """The schema of v2beta1 in the operator's own definition. Unknown keys are errors: Kubernetes would drop them."""
    def close(node):
        if isinstance(node, dict):
            if "properties" in node and "additionalProperties" not in node and \
                    not node.get("x-kubernetes-preserve-unknown-fields"):
                node["additionalProperties"] = False
            for key, value in node.items():
                if key != "metadata":
                    close(value)
        elif isinstance(node, list):
            for value in node:
                close(value)
    definition = yaml.safe_load(Path(path).read_text())
    schema = next(v for v in definition["spec"]["versions"] if v["name"] == "v2beta1")["schema"]["openAPIV3Schema"]
    close(schema["properties"]["spec"])
    return jsonschema.Draft4Validator(schema)


class Kubernetes(unittest.TestCase):
    def test_the_jobs_are_valid(self):
        for stage in STAGES:
            self.assertEqual(problems(load(f"mpijob-{stage}.yaml")), [], stage)

    @unittest.skipUnless("THRESHER_MPIJOB_CRD" in os.environ, "THRESHER_MPIJOB_CRD names no definition")
    def test_the_operators_own_definition_takes_the_jobs(self):
        schema = operator_schema(os.environ["THRESHER_MPIJOB_CRD"])
        for stage in STAGES:
            job = load(f"mpijob-{stage}.yaml")
            self.assertEqual(problems(job, schema), [], stage)
            job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]["volumeMount"] = []
            self.assertNotEqual(problems(job, schema), [])

    def test_a_slip_in_a_job_is_found(self):
        for slip in (lambda job: job["spec"].update(slotsPerWorkers=1),
                     lambda job: job["spec"].pop("mpiReplicaSpecs"),
                     lambda job: job["spec"]["runPolicy"].update(backoffLimit="20"),
                     lambda job: job["spec"]["mpiReplicaSpecs"]["Worker"].update(restartPolicy="never"),
                     lambda job: job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0].update(
                         args=["-n", 4])):
            job = load("mpijob-train.yaml")
            slip(job)
            self.assertEqual(len(problems(job)), 1, job)

    def test_launcher_and_workers_agree_with_each_other_the_claim_and_the_image(self):
        recipe = (K8S / "Dockerfile").read_text()
        home = "/home/thresher"
        for stage in STAGES:
            spec = load(f"mpijob-{stage}.yaml")["spec"]
            launcher, worker = (spec["mpiReplicaSpecs"][name]["template"]["spec"] for name in ("Launcher", "Worker"))
            self.assertEqual(launcher["containers"][0]["image"], worker["containers"][0]["image"])
            self.assertEqual(spec["sshAuthMountPath"], f"{home}/.ssh")
            self.assertIn(f"HostKey {spec['sshAuthMountPath']}/id_rsa", recipe)
            self.assertIn(f"> {worker['containers'][0]['args'][-1]}", recipe)
            for pod in (launcher, worker):
                self.assertEqual(pod["securityContext"]["runAsUser"], 1000)
                claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
                self.assertEqual(claims, [load("pvc.yaml")["metadata"]["name"]])
            self.assertIn("--uid 1000", recipe)
            command, arguments = launcher["containers"][0]["command"], launcher["containers"][0]["args"]
            self.assertEqual(command, ["/opt/thresher/launch/local.sh"])
            ranks = spec["mpiReplicaSpecs"]["Worker"]["replicas"] * spec["slotsPerWorker"]
            self.assertEqual(arguments, ["-n", str(ranks), stage, "experiment.yaml"])

    def test_the_recipe_copies_what_is_there_and_installs_every_library(self):
        recipe = (K8S / "Dockerfile").read_text().replace("\\\n", " ")
        for line in re.findall(r"^COPY (?!--from)(.*)$", recipe, re.M):
            for source in line.split()[:-1]:
                self.assertTrue((SOURCE / source).exists(), source)
        self.assertIn("tools/setup.sh build", recipe)
        installed = set(re.search(r"apt-get install -y --no-install-recommends (.*?)&&", recipe).group(1).split())
        needed = set()
        direct = re.findall(r"NEEDED.*\[(.*)\]", subprocess.run(["readelf", "-d", PROGRAM], capture_output=True, text=True,
                                                               check=True).stdout)
        found = dict(re.findall(r"^\s*(\S+) => (/\S+)", subprocess.run(["ldd", PROGRAM], capture_output=True, text=True,
                                                                     check=True).stdout, re.M))
        for library in direct:
            path = os.path.realpath(found.get(library, "/none"))
            owner = subprocess.run(["dpkg", "-S", path], capture_output=True, text=True)
            if owner.returncode == 0:
                needed.add(owner.stdout.split(":")[0])
        self.assertGreater(len(needed), 8, found)
        self.assertEqual(sorted(needed - installed - {"libc6", "libgcc-s1"}), [])  # these come with debian:12


if __name__ == "__main__":
    unittest.main()
