#!/usr/bin/env python3
# ruff: noqa: RUF001 (Chinese has punctuation of its own)
"""Regenerates the tables of README.md and README.zh-CN.md from the code.

    scripts/docs.py            writes them
    scripts/docs.py --check    exits with 1, and shows the difference, where they are stale

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`. The Chinese texts are in
`CHINESE` below, by the English ones: a changed English text has no translation until it is
given one, stays English in the table, and fails a test.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.config.load import keys
from appliance.errors import ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
# Written by `make faults`, and copied from its report when it is to be published.
MEASURED = ROOT / "tests" / "faults" / "measured.json"
_MARKED = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)

CHINESE = {
    # The heads of the tables.
    "Key": "键",
    "Default": "默认值",
    "Meaning": "含义",
    "Exit": "退出码",
    "Error": "错误",
    "What it means": "含义",
    "What to do": "怎么办",
    # Configuration keys, in the order of appliance/config/model.py.
    "Name of this appliance: of its container and its compose project.": (
        "这套服务的名字，也是容器名和 compose 项目名。"
    ),
    "`ascend`, `cpu`, or what the host has.": "`ascend`、`cpu`，或按主机上有什么来定。",
    "Ascend product (`atlas-a2`, `atlas-a3`), where it can't be detected.": (
        "昇腾产品（`atlas-a2`、`atlas-a3`），用于无法检测的情况。"
    ),
    "vllm-ascend release, such as `v0.23.0`.": "vllm-ascend 版本，例如 `v0.23.0`。",
    "Named set of arguments: what each was measured on is in the README.": (
        "一组命名的参数；各自在什么上测得，见 README。"
    ),
    "Replicas of the model in one server; each takes as many NPUs as the first.": (
        "一个服务里的模型副本数；每个副本占用的 NPU 数相同。"
    ),
    "Host port of the API; by default the first from 8000 on that no appliance has.": (
        "API 在主机上的端口；默认从 8000 起，取第一个没有被其他 appliance 占用的。"
    ),
    "Most tokens in one step.": "一步里最多处理多少 token。",
    "`runc` is given each device by name; `ascend` lets Ascend Docker Runtime do it.": (
        "`runc`：逐个列出设备；`ascend`：交给 Ascend Docker Runtime。"
    ),
    "The NPUs that are needed are unhealthy, in use, or another appliance's.": (
        "需要的 NPU 不健康、正在使用，或属于另一个 appliance。"
    ),
    "Free them, or name others with `npus`; the message has a reason for each.": (
        "释放它们，或用 `npus` 指定别的；消息里有每个 NPU 的原因。"
    ),
    "The model does not fit into the NPUs' memory as configured.": (
        "按当前配置，模型放不进 NPU 的内存。"
    ),
    "Use the setting that the message names, or NPUs with more memory.": (
        "使用消息里给出的设置，或换用内存更大的 NPU。"
    ),
    "Numbers N of the /dev/davinciN to use.": "要使用的 /dev/davinciN 的编号 N。",
    "Hub id (ModelScope), or `tiny-omni`; by default the platform's model.": (
        "ModelScope 上的模型 id，或 `tiny-omni`；默认是平台的模型。"
    ),
    "A model folder on this host, mounted as it is.": "本机上的模型目录，原样挂载。",
    "Revision on the hub, by default `master`.": "ModelScope 上的版本，默认 `master`。",
    "Name in the API, by default the model's id.": "API 里的模型名，默认是模型 id。",
    "Ranks that share each layer: 1, 2 or 4 (they divide 32 text and 20 audio heads).": (
        "每层切给几个 rank：1、2 或 4（能整除 32 个文本头和 20 个音频头）。"
    ),
    "Whole experts on each rank instead of slices of all of them.": (
        "每个 rank 放完整的专家，而不是每个专家的一片。"
    ),
    "Host address that the API is published on.": "API 发布在主机的哪个地址上。",
    "Container network: `bridge` publishes one port, `host` shares the host's.": (
        "容器网络：`bridge` 只发布一个端口，`host` 与主机共用网络。"
    ),
    "File with the API key; needed to bind to anything but loopback.": (
        "存放 API key 的文件；绑定到回环以外的地址时必须有。"
    ),
    "Longest prompt plus answer, in tokens.": "提示加回答的最大长度，单位 token。",
    "Most requests in one batch.": "一个批次里最多的请求数。",
    "Share of the device's memory that vLLM may use.": "vLLM 可使用的设备内存比例。",
    "Most images, videos and audios in one request.": "一个请求里最多的图片、视频、音频数。",
    "vLLM's parser of the thinking part; `none` leaves it in the content.": (
        "vLLM 解析思考部分的解析器；`none` 把它留在 content 里。"
    ),
    "Domains that media URLs may name; empty: data URLs only.": (
        "媒体 URL 允许的域名；为空则只接受 data URL。"
    ),
    "Largest body of a request, in MiB.": "一个请求正文的最大大小，单位 MiB。",
    "Most memory that decoding the media of one request may take, in MiB.": (
        "解码一个请求里的媒体最多可占的内存，单位 MiB。"
    ),
    "Longest sound or video, in seconds.": "音频或视频的最大时长，单位秒。",
    "Further arguments of `vllm serve`, added as they are.": (
        "`vllm serve` 的其他参数，原样加在后面。"
    ),
    "Size of /dev/shm, such as `1g`.": "容器里 /dev/shm 的大小，例如 `1g`。",
    "Memory limit, such as `64g`; none by default.": "内存上限，例如 `64g`；默认不限。",
    "Docker's restart policy.": "Docker 的重启策略。",
    "Resource limits by name, such as `memlock: -1`.": "按名字给出的资源限制，例如 `memlock: -1`。",
    "Give up isolation: every device, every capability.": "放弃隔离：所有设备，所有 capability。",
    "Further environment variables; no secrets here.": "其他环境变量；不要放密钥。",
    "An appliance image to run as it is, instead of building one.": (
        "直接使用的现成镜像，不再构建。"
    ),
    "Base image to build on, instead of the catalog's.": "构建所用的基础镜像，代替目录里的那个。",
    "Other names of the base image, asked in this order after it; by default the catalog's.": (
        "基础镜像的其他名字（镜像站），在它之后按此顺序询问；默认用目录里的。"
    ),
    "Operating system in the Ascend base image, whatever the host's; by default `ubuntu`.": (
        "昇腾基础镜像里的操作系统，与主机的无关；默认 `ubuntu`。"
    ),
    "Digest that an image's name stands for; `appliance images lock` finds and keeps it.": (
        "镜像名对应的摘要（digest）；由 `appliance images lock` 查得并保存。"
    ),
    "CA bundle (PEM) that the build trusts.": "构建时信任的 CA 证书包（PEM）。",
    "Debian mirror for the local base, as a URL.": "本地基础镜像所用的 Debian 镜像站，写 URL。",
    "Index of Python packages, as a URL.": "Python 包索引，写 URL。",
    "Proxy for plain HTTP during the build.": "构建时 HTTP 的代理。",
    "Proxy for HTTPS during the build.": "构建时 HTTPS 的代理。",
    "Hosts that the build reaches without a proxy.": "构建时不经代理访问的主机。",
    "ModelScope's cache of models; mounted read-only.": "ModelScope 的模型缓存；只读挂载。",
    "Checks of `appliance doctor`, by id, whose failure does not stop `appliance up`.": (
        "`appliance doctor` 的检查 id；这些检查不通过也不阻止 `appliance up`。"
    ),
    "Until a fact about the host that does not come is unknown.": (
        "主机的某项情况多久读不到就算未知。"
    ),
    "Until a silent registry counts as absent.": "镜像仓库多久不应答就算没有。",
    "For pulling an image.": "拉取一个镜像。",
    "For building an image.": "构建一个镜像。",
    "From the container's start until it is ready.": "从容器启动到就绪。",
    "For one request of a probe.": "探测的一个请求。",
    "For one probe of the smoke test, with its reasoning.": "冒烟测试的一项探测，含其推理过程。",
    "From the stop signal until the container is killed.": "从停止信号到强制结束容器。",
    "Of these, for running requests to end; by default all but 15.": (
        "其中留给正在处理的请求收尾的时间；默认是除最后 15 秒以外的全部。"
    ),
    "Whether an engine that makes no progress is ended.": "引擎没有进展时是否结束它。",
    "From one look at the engine to the next.": "两次查看引擎之间的间隔。",
    "Without progress, until one token is asked for.": "没有进展多久之后，请求一个 token 来试探。",
    "For that token, where nothing else is being done.": "引擎空闲时，等这个 token 的期限。",
    "Without progress, while requests run or the processes compute.": (
        "有请求在处理、或进程在计算时，允许没有进展的时间。"
    ),
    "Until a process that was stopped or is gone counts.": "进程被暂停或消失多久之后算作故障。",
    "Most restarts within the window; with the next failure it stays down.": (
        "时间窗内最多重启几次；再失败就不再启动。"
    ),
    "For how long a failure counts.": "一次故障计入次数的时间窗。",
    "Before the second restart; doubled for each further one.": (
        "第二次重启前等待的时间；之后每次加倍。"
    ),
    "The most that is waited before a restart.": "重启前最长的等待时间。",
    # Errors, in the order of appliance/errors.py: the meaning, then the remedy.
    "The command line was not understood.": "命令行无法理解。",
    "See `appliance --help`.": "看 `appliance --help`。",
    "A value in appliance.yaml, in APPLIANCE_* or in a flag is not valid.": (
        "appliance.yaml、APPLIANCE_* 或命令行里有一个值无效。"
    ),
    "Correct the key that the message names; `appliance config schema` lists them all.": (
        "改正错误信息指出的键；`appliance config schema` 列出所有的键。"
    ),
    "A key is not one that the appliance knows.": "有一个不认识的键。",
    "Correct its spelling; the nearest known key is in the message.": (
        "改正拼写；错误信息里有最接近的键。"
    ),
    "The API would be reachable from other machines with no API key.": (
        "别的机器能访问这个 API，却没有设置 API key。"
    ),
    "Set `server.api_key_file`, or bind to 127.0.0.1.": (
        "设置 `server.api_key_file`，或绑定到 127.0.0.1。"
    ),
    "The API key file is absent, empty, or readable by everybody.": (
        "API key 文件不存在、为空，或任何人都能读。"
    ),
    "Make it with: (umask 077; openssl rand -hex 32 > FILE).": (
        "这样生成：(umask 077; openssl rand -hex 32 > FILE)。"
    ),
    "No plan can be made for this host.": "无法为这台主机做出计划。",
    "Set `platform` and `product` to what the host is, or use a supported host.": (
        "按主机实际情况设置 `platform` 和 `product`，或换一台受支持的主机。"
    ),
    "Device nodes or driver files that the plan needs are not on the host.": (
        "主机上缺少计划所需的设备节点或驱动文件。"
    ),
    "Install the Ascend driver, or name other NPUs with `npus`.": (
        "安装昇腾驱动，或用 `npus` 指定别的 NPU。"
    ),
    "Docker, its compose plugin or its buildx plugin is not installed.": (
        "没有安装 Docker，或缺少它的 compose 插件或 buildx 插件。"
    ),
    "Install what the message names; `make up` does it on Debian and Ubuntu as root.": (
        "安装错误信息列出的东西；在 Debian 和 Ubuntu 上以 root 运行 `make up` 会自动安装。"
    ),
    "The Docker engine does not answer.": "Docker 引擎没有应答。",
    "Start it (systemctl start docker) and see that you may use its socket.": (
        "启动它（systemctl start docker），并确认你有权使用它的 socket。"
    ),
    "The image could not be pulled from any registry.": "从任何镜像仓库都拉不到镜像。",
    "Check the network or the proxy, name a mirror in `image.mirrors`, or load it by hand.": (
        "检查网络或代理，在 `image.mirrors` 里写一个镜像站，或手工导入镜像。"
    ),
    "Building the image failed.": "构建镜像失败。",
    "Read the builder's last lines above; behind a company proxy set `build.ca_bundle`.": (
        "看上面构建器的输出；在公司代理后面请设置 `build.ca_bundle`。"
    ),
    "The model folder is absent or is not a model.": "模型目录不存在，或不是一个模型。",
    "The container could not read the model folder: its root has no capabilities.": (
        "容器读不了模型目录：容器里的 root 没有 capability。"
    ),
    "Let everybody read the weights: chmod -R o+rX FOLDER.": (
        "让所有人可读权重：chmod -R o+rX FOLDER。"
    ),
    "Correct `model.path`, or name a hub id in `model.id`.": (
        "改正 `model.path`，或在 `model.id` 里写 ModelScope 上的 id。"
    ),
    "The model folder lacks files that its index names, or a shard is cut short.": (
        "模型目录缺少索引里列出的文件，或有分片不完整。"
    ),
    "Run `appliance weights fetch` again: it resumes; or copy the files named.": (
        "再运行一次 `appliance weights fetch`，它会续传；或把列出的文件拷过来。"
    ),
    "The weights could not be fetched from ModelScope.": "无法从 ModelScope 下载权重。",
    "Check the model's id, the network and the proxy; a second try resumes.": (
        "检查模型 id、网络和代理；再试一次会续传。"
    ),
    "There is not enough space left on a disk that the appliance writes to.": (
        "要写入的某个磁盘空间不足。"
    ),
    "Free space there, or move it: `cache.dir` for weights, Docker's data-root for images.": (
        "腾出空间，或换位置：权重用 `cache.dir`，镜像用 Docker 的 data-root。"
    ),
    "Another program holds the API port.": "API 端口被别的程序占用。",
    "Stop that program, or choose another `server.port`.": "停掉那个程序，或换一个 `server.port`。",
    "Another `appliance` command is changing this appliance.": (
        "另一个 `appliance` 命令正在改动这套服务。"
    ),
    "Wait for it to end; `appliance status` shows what it reached.": (
        "等它结束；`appliance status` 显示它进行到哪里。"
    ),
    "The container ended while the engine was loading.": "引擎加载时容器退出了。",
    "Act on the engine's error line in the message; `appliance diagnose` tells more.": (
        "按错误信息里引擎的那一行处理；`appliance diagnose` 给出更多。"
    ),
    "The server did not become ready in time.": "服务没有按时就绪。",
    "The engine ran and made no progress; the container ended for the restart policy to act.": (
        "引擎在运行但没有进展；容器已退出，由重启策略接手。"
    ),
    "`appliance diagnose` reads the log; with `--bundle` it packs the evidence too.": (
        "`appliance diagnose` 读日志；加上 `--bundle` 会把证据一起打包。"
    ),
    "The engine, or one of its processes, ended by itself while it was to serve.": (
        "引擎或它的某个进程在应当提供服务时自行结束。"
    ),
    "`appliance diagnose` names the first error in the log.": (
        "`appliance diagnose` 指出日志里的第一个错误。"
    ),
    "See `appliance logs`; raise `timeouts.ready` if it was still loading.": (
        "看 `appliance logs`；如果还在加载，调大 `timeouts.ready`。"
    ),
    "The server is up, but a smoke probe failed.": "服务已启动，但有一项冒烟探测失败。",
    "Read the response in the probe's line; `appliance smoke` runs them again.": (
        "看那一项探测的输出；`appliance smoke` 会重新探测。"
    ),
    "The engine refused to make or start the container.": "引擎拒绝创建或启动容器。",
    "Act on the engine's message.": "按引擎给出的信息处理。",
    "There is no running appliance of this name.": "没有这个名字的服务在运行。",
    "Start it with `appliance up`.": "用 `appliance up` 启动。",
    "A host snapshot folder can't be read.": "主机快照目录无法读取。",
    "See the table of its files in the README.": "看 README 里快照文件的表。",
    "Building an image needs the project's checkout, and this launcher is installed alone.": (
        "构建镜像需要项目的源码目录，而这个启动器是单独安装的。"
    ),
    "Run it from a clone, or pull the image and name it in `image.name`.": (
        "在克隆的源码目录里运行，或拉取镜像并写在 `image.name` 里。"
    ),
    "The file to be written exists and differs.": "要写的文件已存在，且内容不同。",
    "Look at the difference; write it with `--force`, or to another place.": (
        "看差异；用 `--force` 写入，或写到别处。"
    ),
    "The Docker engine answered a request with an error.": "Docker 引擎对一个请求返回了错误。",
    "Act on its message; `docker info` shows the state of the engine.": (
        "按它给出的信息处理；`docker info` 显示引擎的状态。"
    ),
    "A file that was asked for, or that the appliance keeps, can't be read or written.": (
        "指定的文件，或启动器自己保存的文件，无法读写。"
    ),
    "Act on the system's reason in the message, or choose another place.": (
        "按错误信息里系统给出的原因处理，或换一个位置。"
    ),
    "A check of the host failed; nothing was changed.": "主机有一项检查未通过；什么都没有改动。",
    "Do what stands after each `next:`; `appliance doctor` checks again. What is known to be "
    "harmless goes into `doctor.skip`.": (
        "按每个 `next:` 后面的话处理；`appliance doctor` 重新检查。确知无害的写进 `doctor.skip`。"
    ),
    "What an image's name stands for is not the same everywhere.": (
        "同一个镜像名在各处对应的内容不一致。"
    ),
    "Find out which is right; leave a wrong mirror out of `image.mirrors`, pull a stale image "
    "anew; then `appliance images lock`.": (
        "查明哪个是对的；从 `image.mirrors` 里去掉不对的镜像站，重新拉取过期的镜像；再运行 "
        "`appliance images lock`。"
    ),
    "A file is not a result of `bench` or `eval`, or one that this version can't read.": (
        "文件不是 `bench` 或 `eval` 的结果，或者本版本读不了。"
    ),
    "Name a result.json that `appliance bench` or `appliance eval` wrote.": (
        "给出 `appliance bench` 或 `appliance eval` 写下的 result.json。"
    ),
    "A container that was started for one piece of work ended with an error.": (
        "为一项工作启动的容器出错结束。"
    ),
    "Read the lines above; what was finished by then is kept, and the same command goes on from "
    "there.": "看上面几行；已完成的部分都保留，同一条命令从那里继续。",
    "The input of a command is absent, empty or not in the form that it reads.": (
        "命令的输入不存在、为空，或不是它能读的格式。"
    ),
    "Correct what the message names; nothing was started.": (
        "改正信息里指出的内容；什么都没有启动。"
    ),
    "The work was done, but part of it could not be.": "工作已做完，但有一部分没能做成。",
    "Each part that failed says why in the results; the same command tries only those again.": (
        "失败的每一部分都在结果里写明原因；同一条命令只重试这些。"
    ),
    "A dataset is neither in the folder that was named nor to be had from its hub.": (
        "数据集既不在指定的文件夹里，也无法从它的仓库取得。"
    ),
    "Put the dataset into the folder that `--dataset-dir` names, in the form that the message "
    "gives.": "把数据集按信息里给出的格式放进 `--dataset-dir` 指定的文件夹。",
    "Interrupted by Ctrl-C.": "被 Ctrl-C 中断。",
    "`appliance status` shows what was reached; `appliance up` goes on from there.": (
        "`appliance status` 显示进行到哪里；`appliance up` 从那里继续。"
    ),
    "The appliance itself failed in a way that it does not know.": "启动器自己出了未知的错。",
    "Please report it with the traceback that APPLIANCE_DEBUG=1 shows.": (
        "请附上 APPLIANCE_DEBUG=1 显示的 traceback 报告给我们。"
    ),
    # The faults, in the order of tests/faults/test_faults.py.
    "Injected": "注入的故障",
    "Requests in flight": "在途请求",
    "Named": "报告为",
    "Seconds to the next right answer": "到下一个正确回答的秒数",
    "none missed": "没有中断",
    "(a plain start)": "（一次普通启动）",
    "answered": "个得到回答",
    "connection closed": "个连接被关闭",
    "HTTP 500": "个 HTTP 500",
    "HTTP 503": "个 HTTP 503",
    "worker stopped (SIGSTOP)": "worker 被停住（SIGSTOP）",
    "worker hangs while idle": "worker 在空闲时卡死",
    "worker killed": "worker 被杀",
    "engine core killed": "engine core 被杀",
    "API server stopped": "API server 被停住",
    "memory limit hit": "触到内存上限",
    "container killed": "容器被杀",
    "Docker daemon restarted": "Docker 守护进程重启",
    "weights deleted while serving": "服务时删除权重",
    "weights truncated before a start; time from their repair": "启动前截断权重；时间从修复算起",
    "weights deleted before a start; time from their repair": "启动前删除权重；时间从修复算起",
    "cache disk full, and a worker killed": "缓存磁盘写满，再杀 worker",
    "port taken; time from its release": "端口被占；时间从释放算起",
    "64 clients without a pause for 30 s": "64 个客户端不停请求 30 秒",
    "64 clients without a pause for 120 s": "64 个客户端不停请求 120 秒",
}


def english(text: str) -> str:
    """Return a text as it is."""
    return text


def chinese(text: str) -> str:
    """Return a text's translation, or the text where it has none."""
    return CHINESE.get(text, text)


READMES: dict[str, Callable[[str], str]] = {"README.md": english, "README.zh-CN.md": chinese}


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def plain(value: Any) -> str:
    """Return a default value as it stands in YAML, or nothing where the plan decides."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def config(translate: Callable[[str], str]) -> str:
    """Return the table of the configuration keys."""
    rows = (
        (f"`{key.name}`", plain(key.default), translate(key.field.metadata["description"]))
        for key in keys()
    )
    return table([translate(word) for word in ("Key", "Default", "Meaning")], rows)


def errors(translate: Callable[[str], str]) -> str:
    """Return the table of the errors, by exit code."""
    rows = (
        (str(kind.exit_code), f"`{name}`", translate(kind.meaning), translate(kind.remedy))
        for name, kind in sorted(ERRORS.items(), key=lambda item: item[1].exit_code)
    )
    head = ("Exit", "Error", "What it means", "What to do")
    return table([translate(word) for word in head], rows)


def faults(translate: Callable[[str], str]) -> str:
    """Return the table of the faults, as `make faults` measured them last."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))

    def seconds(value: float | None) -> str:
        return translate("none missed") if value is None else f"{value:.0f}"

    def ends(lost: dict[str, int]) -> str:
        return ", ".join(f"{count} {translate(end)}" for end, count in sorted(lost.items())) or "-"

    def cause(text: str | None) -> str:
        return f"`{text[1:].partition(']')[0]}`" if text else "-"

    rows = [
        (translate(row["fault"]), cause(row["cause"]), ends(row["lost"]), seconds(row["seconds"]))
        for row in measured["rows"]
    ]
    start = (translate("(a plain start)"), "-", "-", f"{measured['start_seconds']:.0f}")
    head = ("Injected", "Named", "Requests in flight", "Seconds to the next right answer")
    return table([translate(word) for word in head], iter([*rows, start]))


TABLES: dict[str, Callable[[Callable[[str], str]], str]] = {
    "config": config,
    "errors": errors,
    "faults": faults,
}


def fresh(text: str, translate: Callable[[str], str]) -> str:
    """Return a README's text with its tables made anew; a name without a table is an error."""

    def replace(match: re.Match[str]) -> str:
        return f"{match['begin']}{TABLES[match['name']](translate)}{match['end']}"

    return _MARKED.sub(replace, text)


def translatable() -> Iterator[str]:
    """Yield every text of the code that the tables translate."""
    for key in keys():
        yield key.field.metadata["description"]
    for kind in ERRORS.values():
        yield kind.meaning
        yield kind.remedy
    for row in json.loads(MEASURED.read_text(encoding="utf-8"))["rows"]:
        yield row["fault"]
        yield from row["lost"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, or check them; return the exit status."""
    parser = argparse.ArgumentParser(description="Regenerate the tables of the READMEs.")
    parser.add_argument("--check", action="store_true", help="write nothing; show differences")
    check = parser.parse_args(arguments).check
    stale = False
    for name, translate in READMES.items():
        file = ROOT / name
        old = file.read_text(encoding="utf-8")
        new = fresh(old, translate)
        if old == new:
            continue
        stale = True
        if check:
            lines = difflib.unified_diff(
                old.splitlines(keepends=True), new.splitlines(keepends=True), name, "fresh"
            )
            sys.stdout.writelines(lines)
        else:
            file.write_text(new, encoding="utf-8")
            print(f"{name}: written", file=sys.stderr)
    if stale and check:
        print("The tables are stale: run `make docs`.", file=sys.stderr)
    return int(stale and check)


if __name__ == "__main__":
    sys.exit(main())
