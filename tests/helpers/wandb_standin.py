"""Stands in for W&B's server, on loopback: the requests of the real wandb 0.31 client, as far as
our tests make them.

It tells what our code sends through the client; it says nothing about the real server.
"""

import base64
import itertools
import json
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import yaml


def project(name):
    return {"id": "UHJvag==", "name": name, "entity": {"id": "RW50", "name": "me"}}


class StandIn:
    """A server at `url`; what came in: `runs` by id, `bodies` of all requests, `unknown`
    operations.

    It answers `late` seconds after it was asked; while `broken`, it is there but takes no runs; of
    the next questions it finds `busy` too many. It takes no run whose id is in `deleted`.
    """

    late, broken, busy, deleted = 0.0, False, 0, ()

    def __init__(self):
        self.runs, self.sweeps, self.bodies, self.unknown, self.lock = {}, {}, [], [], Lock()
        self.server = _Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"state": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def run(self, name):
        empty = {"history": {}, "summary": {}, "config": {}, "exitcode": None}
        return self.runs.setdefault(
            name, {"id": base64.b64encode(name.encode()).decode(), "name": name, **empty}
        )

    def rows(self, name):
        return [self.runs[name]["history"][i] for i in sorted(self.runs[name]["history"])]

    def graphql(self, query, v):
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)[1]
        answer = getattr(self, operation, None)
        if operation == "UpsertBucket" and v.get("name") in self.deleted:
            message = f"run {v['name']} was previously created and deleted; try a new run name"
            return {"errors": [{"message": message}]}
        if not answer:
            self.unknown.append(operation)
            return {"errors": [{"message": f"the stand-in does not know {operation}"}]}
        return {"data": answer(v)}

    def Viewer(self, v):
        me = {
            "id": "VXNlcjox",
            "entity": "me",
            "username": "me",
            "email": "me@x",
            "flags": "{}",
            "admin": False,
        }
        return {"viewer": {**me, "teams": {"edges": []}}}

    def GetDefaultEntity(self, v):
        return self.Viewer(v)

    def UpsertBucket(self, v):
        run = self.run(v.get("name") or v.get("id"))
        run |= {
            k: v[k]
            for k in v
            if k not in ("config", "summaryMetrics", "name", "id") and v[k] is not None
        }
        if v.get("config"):
            run["config"] = json.loads(v["config"])
        bucket = {
            "id": run["id"],
            "name": run["name"],
            "displayName": run.get("displayName"),
            "project": project(v["project"]),
        }
        bucket |= {
            "config": json.dumps(run["config"]),
            "historyLineCount": len(run["history"]),
            "sweepName": None,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def RunResumeStatus(self, v):
        run = self.runs.get(v["name"])
        if run:
            tail = json.dumps([json.dumps(self.rows(v["name"])[-1])] if run["history"] else [])
            counts = {
                "historyLineCount": len(run["history"]),
                "eventsLineCount": 0,
                "logLineCount": 0,
            }
            run = {k: run.get(k) for k in ("id", "name", "displayName", "tags")} | counts
            run |= {
                "historyTail": tail,
                "eventsTail": "[]",
                "wandbConfig": '{"t": 1}',
                "notes": None,
            }
            run |= {
                k: json.dumps(self.runs[v["name"]][k.removesuffix("Metrics")])
                for k in ("config", "summaryMetrics")
            }
        return {"model": {**project(v["project"]), "bucket": run}}

    def ServerFeaturesQuery(self, v):
        return {"serverInfo": {"features": []}}

    def OrganizationCoreWeaveOrganizationID(self, v):
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def CreateRunFiles(self, v):
        files = [{"name": f, "uploadUrl": f"{self.url}/storage/{v['run']}/{f}"} for f in v["files"]]
        return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}

    def Runs(self, v):
        nodes = [self.full(run) for run in self.runs.values()]
        runs = {
            "edges": [{"node": node, "cursor": "c"} for node in nodes],
            "pageInfo": {"hasNextPage": False},
        }
        runs["pageInfo"]["endCursor"] = None
        return {
            "project": {"internalId": "1", "runCount": len(nodes), "readOnly": False, "runs": runs}
        }

    def Run(self, v):
        return {"project": {"run": self.full(self.runs[v["name"]])}}

    def RunHistoryKeys(self, v):
        last = max(self.runs[v["name"]]["history"], default=-1)
        return {"project": {"run": {"historyKeys": {"lastStep": last, "sets": [], "keys": {}}}}}

    def RunParquetHistory(self, v):
        return {
            "project": {
                "run": {"parquetHistory": {"parquetUrls": [], "liveData": self.rows(v["runName"])}}
            }
        }

    def HistoryPage(self, v):
        rows = [
            json.dumps(row)
            for row in self.rows(v["run"])
            if v["minStep"] <= row["_step"] < v["maxStep"]
        ]
        return {"project": {"run": {"history": rows}}}

    def full(self, run):
        state = {None: "running", 0: "finished"}.get(run["exitcode"], "failed")
        texts = {"config": json.dumps(run["config"]), "summaryMetrics": json.dumps(run["summary"])}
        facts = {
            "projectId": "1",
            "state": state,
            "historyLineCount": len(run["history"]),
            "user": {"name": "me"},
        }
        facts |= {
            "group": run.get("groupName"),
            "heartbeatAt": "2026-01-01T00:00:00",
            "systemMetrics": "{}",
        }
        return {"commit": None, "tags": []} | run | facts | texts | {"history": None}

    def RunStoppedStatus(self, v):
        return {"project": {"run": {"stopped": False}}}

    def UpsertSweep(self, v):
        config = yaml.safe_load(v["config"])
        values = [spec.get("values", [spec.get("value")]) for spec in config["parameters"].values()]
        grid = [
            dict(zip(config["parameters"], point, strict=True))
            for point in itertools.product(*values)
        ]
        name = f"sweep{len(self.sweeps)}"
        self.sweeps[name] = {
            "config": v["config"],
            "todo": list(enumerate(grid)),
            "program": config.get("program"),
        }
        return {
            "upsertSweep": {
                "sweep": {"name": name, "project": project("p")},
                "configValidationWarnings": [],
            }
        }

    def SweepWithRuns(self, v):
        sweep = {"id": "U3dlZXA=", "name": v["sweep"], "method": "grid", "state": "RUNNING"}
        sweep |= {"config": self.sweeps[v["sweep"]]["config"], "createdAt": "2026-01-01T00:00:00"}
        none = "description heartbeatAt updatedAt bestLoss controller scheduler".split()
        sweep |= dict.fromkeys(none) | {"earlyStopJobRunning": False, "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def CreateAgent(self, v):
        return {"createAgent": {"agent": {"id": v["sweep"]}}}

    def Heartbeat(self, v):
        sweep, commands = self.sweeps[v["id"]], []
        if not any(json.loads(v["runState"] or "{}").values()):
            commands = [{"type": "exit"}]
            if sweep["todo"]:
                i, point = sweep["todo"].pop(0)
                arguments = {key: {"value": value} for key, value in point.items()}
                commands = [
                    {
                        "type": "run",
                        "run_id": f"{v['id']}-{i}",
                        "program": sweep["program"],
                        "args": arguments,
                    }
                ]
        return {"agentHeartbeat": {"agent": {"id": v["id"]}, "commands": json.dumps(commands)}}

    def stream(self, name, body):
        run = self.run(name)
        for file, part in (body.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                run["history"] |= {
                    part.get("offset", 0) + i: json.loads(x) for i, x in enumerate(part["content"])
                }
            elif file == "wandb-summary.json":
                run["summary"] = json.loads(part["content"][-1])
        if body.get("complete"):
            run["exitcode"] = body.get("exitcode")
        if body.get("preempting"):
            run["preempting"] = True
        return {"exitcode": None, "limits": {}}


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """The client's process ends without closing its connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        time.sleep(self.state.late)
        if self.path.startswith("/graphql") and (self.state.broken or self.state.busy):
            self.send_response(500 if self.state.broken else 429)
            self.state.busy -= self.state.busy > 0
            self.send_header("content-length", "0")
            self.end_headers()
            return
        with self.state.lock:
            self.state.bodies.append(body)
            content = self.content(body)
        data = json.dumps(content).encode()
        status = 400 if "errors" in content else 200
        self.send_response(409 if b"previously created" in data else status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def content(self, body):
        if self.path.startswith("/graphql"):
            request = json.loads(body)
            return self.state.graphql(request["query"], request.get("variables") or {})
        if self.path.endswith("/file_stream"):
            return self.state.stream(self.path.split("/")[-2], json.loads(body))
        return {}

    do_GET = do_POST = do_PUT = answer
