//! Portway and a real kube-apiserver with etcd behind it: `make test-apiserver`. See `tests/README.md`.

mod control_plane;
mod kernel_table;
mod operator;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use support::netns::{in_netns, ip_batch, output_of};
use support::nft::Nft;
use tokio::time::sleep;

use control_plane::{Assets, ControlPlane, KUBE_PROXY, Process};
use kernel_table::KernelTable;

/// What the chart makes.
const CHART: &str = include_str!("../../charts/portway/ci/minimal-rendered.yaml");
const ACCOUNT: &str = "/api/v1/namespaces/kube-system/serviceaccounts";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const BINDING: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
/// Longer than anything takes that does not fail.
const LIMIT: Duration = Duration::from_secs(120);
/// What recovery may take at most, and half of it in the median, once the server lets lists be read. Checked with
/// `PORTWAY_RECOVERIES`; otherwise a loaded machine gets more.
const WORST: Duration = Duration::from_secs(2);
const ROOM: u32 = 5;

fn main() -> ExitCode {
    let result = Assets::find().and_then(|assets| {
        in_netns(|| {
            ip_batch("addr add 192.0.2.1/32 dev lo")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(assets))
        })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("test-apiserver: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// One after the other: each goes on with what the one before has left.
async fn run(assets: Assets) -> Result<()> {
    let version = output_of(&assets.program("kube-apiserver").display().to_string(), &["--version"]);
    println!("{} with {}", version.trim(), if cfg!(debug_assertions) { "a debug build" } else { "a release build" });
    let mut world = World::start(assets).await?;
    let result = world.all().await;
    if result.is_err() {
        eprintln!("{}\n{}", world.plane.tail(), world.portway.as_ref().map(Process::tail).unwrap_or_default());
    }
    result
}

struct World {
    plane: ControlPlane,
    kubeconfig: std::path::PathBuf,
    token: std::path::PathBuf,
    portway: Option<Process>,
    kube_proxy: Option<Process>,
    nft: Nft,
    services: usize,
}

impl World {
    async fn start(assets: Assets) -> Result<Self> {
        let started = Instant::now();
        let plane = ControlPlane::start(assets).await?;
        println!("ok   etcd and kube-apiserver run after {:.1} s", started.elapsed().as_secs_f64());
        while plane.send("GET", "/api/v1/namespaces/kube-system", &Value::Null).await.is_err() {
            ensure!(started.elapsed() < LIMIT, "no namespace kube-system");
            sleep(Duration::from_millis(100)).await;
        }
        for document in CHART.split("\n---\n") {
            let object: Value = serde_yaml::from_str(document)?;
            let path = match object["kind"].as_str() {
                Some("ServiceAccount") => ACCOUNT,
                Some("ClusterRole") => ROLE,
                Some("ClusterRoleBinding") => BINDING,
                _ => continue,
            };
            plane.create(path, &object).await.with_context(|| path.to_owned())?;
        }
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
        plane.create("/api/v1/nodes", &node).await?;
        let (kubeconfig, token) = plane.kubeconfig("none yet")?;
        let world =
            Self { plane, kubeconfig, token, portway: None, kube_proxy: None, nft: Nft::all().remove(0), services: 0 };
        world.new_token().await?;
        Ok(world)
    }

    async fn all(&mut self) -> Result<()> {
        operator::asks(&self.plane).await?;
        self.missing_rights().await?;
        self.start_and_change().await?;
        self.start_kube_proxy().await?;
        for outage in setting("PORTWAY_OUTAGES", "2,8").split(',') {
            self.recovery(Duration::from_secs(outage.trim().parse()?)).await?;
        }
        self.token_rotation().await?;
        self.restored_etcd().await?;
        self.kube_proxy = None;
        self.many().await
    }

    /// The token a pod of the chart would get.
    async fn new_token(&self) -> Result<()> {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600}});
        let answer = self.plane.create(&format!("{ACCOUNT}/portway/token"), &request).await?;
        std::fs::write(&self.token, answer["status"]["token"].as_str().context("a token")?)?;
        Ok(())
    }

    fn start_portway(&mut self) -> Result<()> {
        self.portway = None;
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig.display());
        let arguments = ["run", "-v", "2", "--hostname-override=node-1", "--no-table-ownership"].map(str::to_owned);
        let program = std::env::var_os("PORTWAY_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_portway").into());
        self.portway = Some(Process::start("portway", program.as_ref(), &[&arguments[..], &[kubeconfig]].concat())?);
        Ok(())
    }

    fn portway(&self) -> Result<&Process> {
        self.portway.as_ref().context("Portway runs")
    }

    /// A Service with an address of its own, and a slice with an endpoint.
    fn service(&mut self) -> (Value, Value, String) {
        let number = self.services;
        self.services += 1;
        let name = format!("web-{number}");
        let address = format!("10.{}.{}.{}", 97 + number / 40_000, number % 40_000 / 200, 1 + number % 200);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"clusterIP": address, "selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}});
        let endpoints: Vec<Value> = (0..10)
            .map(|endpoint| {
                json!({"addresses": [format!("10.{}.{}.{}", 200 + endpoint, number / 250, 1 + number % 250)],
                "conditions": {"ready": true}, "nodeName": format!("node-{}", 1 + endpoint)})
            })
            .collect();
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
        (service, slice, address)
    }

    /// Waits until Portway's table has this address; how long it took.
    async fn in_kernel(&self, address: &str, since: Instant) -> Result<Duration> {
        let mut table = KernelTable::open()?;
        while !table.has(address)? {
            ensure!(since.elapsed() < LIMIT, "{address} does not get into Portway's table");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(since.elapsed())
    }

    /// The same for kube-proxy's table, which is small whenever kube-proxy runs here: all of it is listed.
    async fn in_kube_proxys(&self, address: &str, since: Instant) -> Result<Duration> {
        let text = format!("{address} . ");
        while !self.nft.run(&["list", "table", "ip", "kube-proxy"], "").is_ok_and(|listed| listed.contains(&text)) {
            ensure!(since.elapsed() < LIMIT, "{address} does not get into kube-proxy's table");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(since.elapsed())
    }

    async fn missing_rights(&mut self) -> Result<()> {
        let mut role = self.plane.send("GET", &format!("{ROLE}/portway"), &Value::Null).await?;
        let rules = role["rules"].clone();
        role["rules"].as_array_mut().context("rules")?.retain(|rule| !rule.to_string().contains("endpointslices"));
        self.plane.send("PUT", &format!("{ROLE}/portway"), &role).await?;
        self.start_portway()?;
        let started = Instant::now();
        let words = ["403", "endpointslices", "grant list and watch on it to this account"];
        while self.portway()?.said(&words) == 0 {
            ensure!(started.elapsed() < LIMIT, "no error that names what is missing");
            sleep(Duration::from_millis(50)).await;
        }
        ensure!(self.portway()?.said(&["403", "services"]) == 0, "only what is missing is named");
        let line = self.portway()?.log().iter().find(|line| line.contains(words[2])).cloned().unwrap_or_default();
        println!("ok   a missing right is named: {}", line.trim());
        role = self.plane.send("GET", &format!("{ROLE}/portway"), &Value::Null).await?;
        role["rules"] = rules;
        self.plane.send("PUT", &format!("{ROLE}/portway"), &role).await?;
        let granted = Instant::now();
        while self.portway()?.said(&["first sync done"]) == 0 {
            ensure!(granted.elapsed() < LIMIT, "the right is there, and Portway does not start");
            sleep(Duration::from_millis(50)).await;
        }
        println!("ok   first sync {:.1} s after the right was granted", granted.elapsed().as_secs_f64());
        Ok(())
    }

    async fn start_and_change(&mut self) -> Result<()> {
        self.start_portway()?;
        let (service, slice, address) = self.service();
        self.plane.create(SLICES, &slice).await?;
        self.plane.create(SERVICES, &service).await?;
        let took = self.in_kernel(&address, Instant::now()).await?;
        println!("ok   start: a Service is in the kernel after {took:.1?}");
        let (service, slice, address) = self.service();
        self.plane.create(SERVICES, &service).await?;
        self.plane.create(SLICES, &slice).await?;
        let took = self.in_kernel(&address, Instant::now()).await?;
        println!("ok   change: {took:.1?}");
        sleep(Duration::from_secs(1)).await;
        let (sockets, bytes) = self.sockets()?;
        ensure!(sockets == 1, "{sockets} connections to the API server");
        println!("ok   all watches share {sockets} connection; {bytes} bytes so far");
        Ok(())
    }

    /// Connections of Portway to the server, and bytes that came over them.
    fn sockets(&self) -> Result<(usize, u64)> {
        let own = format!("pid={},", self.portway()?.id());
        let text = output_of("ss", &["-Htnpi", "state", "established", "dport", "=", ":6443"]);
        let lines: Vec<&str> = text.lines().collect();
        let mine = lines.chunks(2).filter(|pair| pair[0].contains(&own));
        let bytes = |pair: &[&str]| {
            let word = pair.get(1)?.split_whitespace().find_map(|word| word.strip_prefix("bytes_received:"))?;
            word.parse::<u64>().ok()
        };
        Ok((mine.clone().count(), mine.filter_map(bytes).sum()))
    }

    /// Beside it, where the folder has one.
    async fn start_kube_proxy(&mut self) -> Result<()> {
        let program = self.plane.assets().program("kube-proxy");
        if !program.is_file() {
            println!("     no kube-proxy to compare with");
            return Ok(());
        }
        let (kubeconfig, _) = self.plane.kubeconfig(KUBE_PROXY)?;
        let arguments = [
            format!("--kubeconfig={}", kubeconfig.display()),
            "--proxy-mode=nftables".into(),
            "--hostname-override=node-1".into(),
            "--healthz-bind-address=127.0.0.1:20256".into(),
            "--metrics-bind-address=127.0.0.1:20249".into(),
            "--conntrack-max-per-core=0".into(),
            "--conntrack-tcp-timeout-established=0".into(),
            "--conntrack-tcp-timeout-close-wait=0".into(),
        ];
        self.kube_proxy = Some(Process::start("kube-proxy", &program, &arguments)?);
        let (service, slice, address) = self.service();
        self.plane.create(SLICES, &slice).await?;
        self.plane.create(SERVICES, &service).await?;
        if let Err(error) = self.in_kube_proxys(&address, Instant::now()).await {
            let log = self.kube_proxy.take().map(|process| process.tail()).unwrap_or_default();
            println!("     kube-proxy does not run here: {error:#}\n{log}");
        }
        Ok(())
    }

    /// The server is killed, and comes back with an empty watch cache.
    async fn recovery(&mut self, outage: Duration) -> Result<()> {
        let runs = setting("PORTWAY_RECOVERIES", "2").parse()?;
        let (mut times, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let mut table = KernelTable::open()?;
            let before = table.read()?;
            self.plane.kill_server();
            let killed = Instant::now();
            sleep(outage.saturating_sub(Duration::from_millis(500))).await;
            let after = table.read()?;
            ensure!(after.chains == before.chains && after.sets == before.sets, "rules do not stay in force");
            sleep(outage.saturating_sub(killed.elapsed())).await;
            let lists = self.portway()?.said(&["listing anew"]);
            self.plane.start_server()?;
            let (ours, kube_proxys) = self.until_back().await?;
            times.push(ours);
            theirs.extend(kube_proxys);
            sleep(Duration::from_secs(2)).await;
            let lists = self.portway()?.said(&["listing anew"]) - lists;
            ensure!(lists <= 4, "{lists} lists of four kinds");
        }
        report(&format!("killed, {} s", outage.as_secs()), times, theirs)
    }

    /// From the first answer until a Service that was made as soon as possible is in the kernel; kube-proxy's time, too.
    async fn until_back(&mut self) -> Result<(Times, Option<Duration>)> {
        let started = Instant::now();
        while !self.plane.answers().await {
            ensure!(started.elapsed() < LIMIT, "the server does not come back\n{}", self.plane.tail());
            sleep(Duration::from_millis(5)).await;
        }
        let answered = Instant::now();
        let (service, slice, address) = self.service();
        let create = async {
            while self.plane.create(SLICES, &slice).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
            while self.plane.create(SERVICES, &service).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
            Ok(Instant::now())
        };
        let (created, lists) = tokio::try_join!(create, self.plane.until_it_lists())?;
        let theirs = async {
            match &self.kube_proxy {
                Some(_) => self.in_kube_proxys(&address, created).await.map(Some),
                None => Ok(None),
            }
        };
        let (ours, theirs) = tokio::join!(self.in_kernel(&address, created), theirs);
        let ours = created + ours?;
        Ok((Times { since_ready: ours - created.max(lists), since_answer: ours - answered }, theirs?))
    }

    /// The old token is worth nothing any more, and the new one is only in the file.
    async fn token_rotation(&mut self) -> Result<()> {
        let account = format!("{ACCOUNT}/portway");
        let object = self.plane.send("GET", &account, &Value::Null).await?;
        self.plane.send("DELETE", &account, &Value::Null).await?;
        self.plane
            .create(
                ACCOUNT,
                &json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": object["metadata"]["name"], "namespace": "kube-system"}}),
            )
            .await?;
        self.new_token().await?;
        self.plane.kill_server();
        self.plane.start_server()?;
        let (times, _) = self.until_back().await?;
        ensure!(times.since_ready < LIMIT / 4, "{:?}", times.since_ready);
        let read = self.portway()?.said(&["read the credentials for the API server again"]);
        println!(
            "ok   token rotation: {:.1?} after the server was ready; credentials read again {read} times",
            times.since_ready
        );
        Ok(())
    }

    async fn restored_etcd(&mut self) -> Result<()> {
        let (mut times, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..setting("PORTWAY_RECOVERIES", "2").parse()? {
            let (ours, kube_proxys) = self.restore().await?;
            times.push(ours);
            theirs.extend(kube_proxys);
        }
        report("etcd restored to an older revision", times, theirs)
    }

    async fn restore(&mut self) -> Result<(Times, Option<Duration>)> {
        self.plane.back_up().await?;
        sleep(Duration::from_secs(3)).await;
        let (service, slice, lost) = self.service();
        self.plane.create(SLICES, &slice).await?;
        let made = self.plane.create(SERVICES, &service).await?;
        // Far enough ahead for the versions to be from the future afterwards.
        let path = format!("{SERVICES}/{}", made["metadata"]["name"].as_str().context("a name")?);
        for number in 0..600 {
            let patch = json!({"metadata": {"annotations": {"number": number.to_string()}}});
            let request = http::Request::patch(&path).header("content-type", "application/merge-patch+json");
            self.plane.patch(request.body(patch.to_string().into_bytes())?).await?;
        }
        self.in_kernel(&lost, Instant::now()).await?;
        let before = self.portway()?.said(&["gone back to an older state"]);
        self.plane.restore()?;
        self.plane.start_server()?;
        let (times, theirs) = self.until_back().await?;
        let gone = Instant::now();
        let mut table = KernelTable::open()?;
        while table.has(&lost)? {
            ensure!(gone.elapsed() < LIMIT, "a Service that is not there any more stays in the kernel");
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_secs(2)).await;
        let older = self.portway()?.said(&["gone back to an older state"]) - before;
        ensure!(older == 4, "{older} kinds were listed anew: their history is another one");
        if times.since_ready > WORST {
            println!("{}", self.portway()?.tail());
        }
        Ok((times, theirs))
    }

    /// 10,000 Services of 10 endpoints, or as many as wanted.
    async fn many(&mut self) -> Result<()> {
        let wanted: usize = setting("PORTWAY_SERVICES", "10000").parse()?;
        let started = Instant::now();
        let objects: Vec<(Value, Value, String)> = (0..wanted).map(|_| self.service()).collect();
        let last = objects.last().context("a Service")?.2.clone();
        let plane = &self.plane;
        stream::iter(&objects)
            .map(Ok)
            .try_for_each_concurrent(16, async |(service, slice, _)| {
                plane.create(SERVICES, service).await?;
                plane.create(SLICES, slice).await.map(drop)
            })
            .await?;
        let made = Instant::now();
        let lag = self.in_kernel(&last, made).await?;
        println!("ok   {wanted} x 10 made in {:.0} s, in the kernel {lag:.1?} later", (made - started).as_secs_f64());
        self.start_portway()?;
        let started = Instant::now();
        while self.portway()?.said(&["first sync done"]) == 0 {
            ensure!(started.elapsed() < LIMIT, "no first sync");
            sleep(Duration::from_millis(20)).await;
        }
        let took = started.elapsed();
        sleep(Duration::from_secs(5)).await;
        let ((sockets, bytes), memory) = (self.sockets()?, self.memory()?);
        println!(
            "ok   restart with {wanted} x 10: first sync after {took:.1?}, {sockets} connection, {bytes} bytes, {memory}"
        );
        for outage in [2, 8] {
            self.recovery(Duration::from_secs(outage)).await?;
            sleep(Duration::from_secs(3)).await;
            println!("     {}", self.memory()?);
        }
        Ok(())
    }

    /// What Portway has now, and had at most.
    fn memory(&self) -> Result<String> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.portway()?.id()))?;
        let megabytes = |name: &str| {
            let kilobytes = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
            kilobytes
                .and_then(|number| number.parse::<f64>().ok())
                .map(|number| number * 1024.0 / 1e6)
                .context("status")
        };
        let (resident, own, most) = (megabytes("VmRSS:")?, megabytes("RssAnon:")?, megabytes("VmHWM:")?);
        Ok(format!("{resident:.1} MB resident, {own:.1} MB of its own, {most:.1} MB at most"))
    }
}

#[derive(Debug, Clone, Copy)]
struct Times {
    /// The server's first answer, whatever it was.
    since_answer: Duration,
    /// It lets Services be made, and lists be read.
    since_ready: Duration,
}

fn middle_and_worst(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() - 1])
}

fn report(what: &str, times: Vec<Times>, theirs: Vec<Duration>) -> Result<()> {
    let (median, worst) = middle_and_worst(times.iter().map(|times| times.since_ready).collect());
    let (answer, worst_answer) = middle_and_worst(times.iter().map(|times| times.since_answer).collect());
    println!(
        "ok   {what}, {} runs: in the kernel {median:.2?} after the server was ready (worst {worst:.2?}), {answer:.2?} after the \
         first answer (worst {worst_answer:.2?})",
        times.len()
    );
    if !theirs.is_empty() {
        let (median, worst) = middle_and_worst(theirs);
        println!("     kube-proxy: {median:.2?} after it could be made (worst {worst:.2?})");
    }
    let most = if std::env::var_os("PORTWAY_RECOVERIES").is_some() { WORST } else { WORST * ROOM };
    ensure!(worst <= most && median <= most / 2, "{what}: too late");
    Ok(())
}
