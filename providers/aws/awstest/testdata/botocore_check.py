"""Asks a server with Amazon's own client library, and checks each answer against Amazon's models.

usage: botocore_check.py URL. Prints one JSON object: what was understood ("answers"), what the models do not know or miss in the
answers ("strange"), and how errors were understood ("errors").
"""
import json
import sys
import xml.etree.ElementTree as ET

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.utils import InstanceMetadataFetcher

url = sys.argv[1]
# Members that the APIs have got since the models of Debian 12.
NEWER = {"placement/availabilityZoneId", "InstancesRevision"}
strange, answers, errors = [], {}, {}


def check_json(value, shape, path):
    kind = shape.type_name
    if kind == "structure":
        names = {m.serialization.get("name", n): m for n, m in shape.members.items()}
        for k, v in value.items():
            if k in names:
                check_json(v, names[k], path + "/" + k)
            elif k not in NEWER:
                strange.append(f"{path}/{k}: the model has no such member")
        for k in shape.required_members:
            if k not in value:
                strange.append(f"{path}/{k}: is missing")
    elif kind == "list":
        for v in value:
            check_json(v, shape.member, path + "[]")
    elif kind == "map":
        for v in value.values():
            check_json(v, shape.value, path + "{}")
    elif kind == "string":
        if not isinstance(value, str) or getattr(shape, "enum", None) and value not in shape.enum:
            strange.append(f"{path}: {value!r} is not in {getattr(shape, 'enum', 'a string')}")
    elif kind in ("integer", "long") and not isinstance(value, int):
        strange.append(f"{path}: {value!r} is no number")


def local(tag):
    return tag.split("}")[-1]


def check_xml(node, shape, path):
    kind = shape.type_name
    if kind == "structure":
        names = {m.serialization.get("name", n): m for n, m in shape.members.items()}
        for child in node:
            if local(child.tag) in names:
                check_xml(child, names[local(child.tag)], path + "/" + local(child.tag))
            elif not any((path + "/" + local(child.tag)).endswith(n) for n in NEWER | {"requestId"}):
                strange.append(f"{path}/{local(child.tag)}: the model has no such member")
    elif kind == "list":
        item = shape.member.serialization.get("name", "member")
        for child in node:
            if local(child.tag) != item:
                strange.append(f"{path}/{local(child.tag)}: items are called {item}")
            check_xml(child, shape.member, path + "[]")
    elif getattr(shape, "enum", None) and node.text not in shape.enum:
        strange.append(f"{path}: {node.text!r} is not in {shape.enum}")
    elif kind in ("integer", "long"):
        int(node.text)


def checker(client):
    def check(response_dict, event_name, **_):
        operation = client.meta.service_model.operation_model(event_name.split(".")[-1])
        if response_dict["status_code"] != 200:
            return
        shape, body = operation.output_shape, response_dict["body"]
        if client.meta.service_model.metadata["protocol"] in ("json", "rest-json"):
            check_json(json.loads(body), shape, operation.name)
            return
        root = ET.fromstring(body)
        if local(root.tag) != operation.name + "Response":
            strange.append(f"{operation.name}: the answer is called {local(root.tag)}")
        wrapper = shape.serialization.get("resultWrapper")
        if wrapper:
            root = next(c for c in root if local(c.tag) == wrapper)
        check_xml(root, shape, operation.name)

    return check


def connect(service, region="eu-west-1", key="AKIDTEST"):
    session = botocore.session.Session()
    session.set_credentials(key, "secret")
    client = session.create_client(service, region_name=region, endpoint_url=url,
                                   config=Config(retries={"max_attempts": 0}, inject_host_prefix=False))
    client.meta.events.register("response-received", checker(client))
    return client


def everything(client, operation, key, **args):
    pages = client.get_paginator(operation).paginate(**args)
    return [item for page in pages for item in page[key]]


def flat(reservations):
    return [i for r in reservations for i in r["Instances"]]


ec2, ecs, names, elb, eks, sts, scaling = (connect(s) for s in (
    "ec2", "ecs", "servicediscovery", "elbv2", "eks", "sts", "autoscaling"))
answers["instances"] = flat(everything(ec2, "describe_instances", "Reservations",
                                       Filters=[{"Name": "tag:team", "Values": ["shop"]}]))
answers["groups"] = everything(scaling, "describe_auto_scaling_groups", "AutoScalingGroups", AutoScalingGroupNames=["web"])
answers["zones"] = ec2.describe_availability_zones()["AvailabilityZones"]
answers["subnets"] = everything(ec2, "describe_subnets", "Subnets")
answers["clusters"] = everything(ecs, "list_clusters", "clusterArns")
tasks = everything(ecs, "list_tasks", "taskArns", cluster="shop")
described = ecs.describe_tasks(cluster="shop", tasks=tasks, include=["TAGS"])
answers["tasks"], answers["failures"] = described["tasks"], described["failures"]
answers["hosts"] = ecs.describe_container_instances(cluster="shop", containerInstances=["h1"])["containerInstances"]
answers["definition"] = ecs.describe_task_definition(taskDefinition="web:3", include=["TAGS"])["taskDefinition"]
answers["namespaces"] = everything(names, "list_namespaces", "Namespaces")
answers["services"] = everything(names, "list_services", "Services", Filters=[
    {"Name": "NAMESPACE_ID", "Values": [answers["namespaces"][0]["Id"]], "Condition": "EQ"}])
answers["discovered"] = names.discover_instances(NamespaceName="prod.http", ServiceName="cart", HealthStatus="ALL")["Instances"]
answers["registered"] = everything(names, "list_instances", "Instances", ServiceId=answers["services"][0]["Id"])
answers["health"] = names.get_instances_health_status(ServiceId=answers["services"][0]["Id"])["Status"]
answers["target groups"] = everything(elb, "describe_target_groups", "TargetGroups")
answers["targets"] = elb.describe_target_health(TargetGroupArn=answers["target groups"][0]["TargetGroupArn"])["TargetHealthDescriptions"]
answers["eks"] = [eks.describe_cluster(name=n)["cluster"] for n in everything(eks, "list_clusters", "clusters")]
role = sts.assume_role(RoleArn="arn:aws:iam::444455556666:role/mesh", RoleSessionName="check", ExternalId="secret")["Credentials"]
answers["other"] = flat(everything(connect("ec2", key=role["AccessKeyId"]), "describe_instances", "Reservations"))
answers["identity"] = sts.get_caller_identity()
answers["imds"] = InstanceMetadataFetcher(base_url=url + "/").retrieve_iam_role_credentials()["access_key"]

for fault in ("throttle", "deny", "expired", "unavailable"):
    for service, call in (("ec2", "describe_instances"), ("ecs", "list_clusters"), ("servicediscovery", "list_namespaces"),
                          ("elbv2", "describe_target_groups"), ("eks", "list_clusters"), ("sts", "get_caller_identity"),
                          ("autoscaling", "describe_auto_scaling_groups")):
        try:
            getattr(connect(service, region="eu-" + fault + "-1"), call)()
        except ClientError as e:
            status = e.response["ResponseMetadata"]["HTTPStatusCode"]
            errors[service + " " + fault] = f'{status} {e.response["Error"]["Code"]}'
            if fault == "deny" and "is not authorized to perform: " not in e.response["Error"]["Message"]:
                strange.append(f"{service}: the denial does not say what is missing")

for a in answers.values():
    if isinstance(a, dict):
        a.pop("ResponseMetadata", None)
json.dump({"answers": answers, "strange": strange, "errors": errors}, sys.stdout, default=str)
