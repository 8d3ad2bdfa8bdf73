//! Keys, collector, device, fleet, terminal view and web page, by the commands that people use.
#![cfg(feature = "collector")]
#![allow(clippy::unwrap_used, reason = "a failed helper fails its test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn pilotlight(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pilotlight")).args(words).output().unwrap()
}

fn succeeds(words: &[&str]) -> String {
    let output = pilotlight(words);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

struct Field {
    _collector: Running,
    folder: tempfile::TempDir,
    udp: SocketAddr,
    web: SocketAddr,
}

impl Field {
    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

fn field() -> Field {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let web = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    succeeds(&["wire", "keygen", "--fleet", &path("fleet.key")]);
    let child = Command::new(env!("CARGO_BIN_EXE_pilotlight"))
        .args(["collect", "--key", &path("fleet.key"), "--db", &path("fleet.db")])
        .args(["--udp", &udp.to_string(), "--web", &web.to_string()])
        .stderr(Stdio::null())
        .spawn();
    let collector = Running(child.unwrap());
    until("the web page answers", || get(web, "/api/fleet").is_some());
    Field { _collector: collector, folder, udp, web }
}

fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/digits/model.plan")
}

#[test]
fn a_run_reports_to_the_collector() {
    let field = field();
    succeeds(&[
        "wire",
        "keygen",
        "--fleet",
        &field.path("fleet.key"),
        "--device",
        "7",
        "--out",
        &field.path("7.key"),
    ]);
    let again = pilotlight(&["wire", "keygen", "--fleet", &field.path("fleet.key")]);
    assert!(!again.status.success(), "a key file must not be overwritten");
    for boot in 1..=2 {
        let target = format!("udp://{}", field.udp);
        let (key, state) = (field.path("7.key"), field.path("state"));
        let models = digits().with_file_name("..");
        let model = |path: &str| models.join(path).to_str().unwrap().to_owned();
        let (plan, net, photo) =
            (model("digits/model.plan"), model("efficientnet-lite0/model.plan"), model("photos/coffee.jpg"));
        // Both commands report; each is a boot of the device.
        let words = match boot {
            1 => ["bench", &plan, "-n", "50"].to_vec(),
            _ => ["run", &net, "--image", &photo, "--repeat", "50"].to_vec(),
        };
        let telemetry = ["--telemetry", &target, "--key", &key, "--telemetry-state", &state];
        let output = pilotlight(&[&words[..], &telemetry].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains(&format!("boot {boot}, ")) && said.contains(" 0 wait for the next run, 0 dropped"),
            "{said}"
        );
    }
    let fleet: serde_json::Value = serde_json::from_str(&get(field.web, "/api/fleet").unwrap()).unwrap();
    let device = &fleet["devices"][0];
    assert_eq!((&device["device"], &device["inferences"]), (&serde_json::json!(7), &serde_json::json!(100)));
    assert!(device["last"]["latency_us"]["p50"].as_u64().unwrap() > 0 && device["closed"] == true);
    assert!(device["last"]["energy"].is_null(), "no sensor was read, so no energy may be shown");
    let csv = succeeds(&["collect", "export", "--db", &field.path("fleet.db")]);
    assert!(csv.lines().count() >= 3 && csv.starts_with("device,boot,sequence,"));
    assert!(succeeds(&["top", &field.web.to_string()]).starts_with("1 devices"));
}

/// A board's sensors go into the reports. These are files, so their energy is called modelled.
#[test]
fn a_boards_power_clocks_and_temperatures_are_reported() {
    let field = field();
    let (fleet, key, root) = (field.path("fleet.key"), field.path("9.key"), field.path("board"));
    succeeds(&["wire", "keygen", "--fleet", &fleet, "--device", "9", "--out", &key]);
    succeeds(&["boards", "--fixture", "orin-nano-8gb-super", "--root", &root]);
    let (plan, target, state) = (digits(), format!("udp://{}", field.udp), field.path("state"));
    let mut bench =
        vec!["bench", plan.to_str().unwrap(), "-n", "400000", "--telemetry", &target, "--key", &key];
    bench.extend(["--telemetry-state", &state, "--telemetry-root", &root]);
    succeeds(&bench);
    let fleet: serde_json::Value = serde_json::from_str(&get(field.web, "/api/fleet").unwrap()).unwrap();
    let (device, last) = (&fleet["devices"][0], &fleet["devices"][0]["last"]);
    assert_eq!((&device["board"], &device["rail"]), (&"orin-nano-8gb-super".into(), &"VDD_IN".into()));
    let energy = &last["energy"];
    let watts = energy["gross_uj"].as_f64().unwrap() / last["window_ms"].as_f64().unwrap() / 1e3;
    assert!((5.4..5.7).contains(&watts) && energy["source"] == "modelled", "{last}");
    assert_eq!(energy["net_uj"], energy["gross_uj"], "no baseline is known");
    assert!(energy["net_each_spread_uj"].as_f64() >= energy["net_each_uj"].as_f64(), "{last}");
    assert!(last["clocks_mhz"]["gpu"].as_u64().is_some_and(|mhz| mhz > 0), "{last}");
    assert!(last["celsius"]["module"].as_i64().is_some(), "{last}");
}

#[test]
fn frames_are_decoded_for_people_and_scripts() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire/vectors/v1.txt");
    let vectors = std::fs::read_to_string(vectors).unwrap();
    let part =
        |start: &str| vectors.lines().filter_map(|line| line.strip_prefix(start)).nth(2).unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("fleet.key");
    let secret: String = (0..32).map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(&key, format!("current = 2\n[[key]]\nid = 2\nsecret = \"{secret}\"\n")).unwrap();
    let (hex, key) = (part("frame: "), key.to_str().unwrap());
    let text = succeeds(&["wire", "decode", &hex, "--key", key]);
    assert!(text.starts_with("verified: device 1201, boot 318, sequence 2937600, key 2, 47 bytes"), "{text}");
    assert!(text.contains("energy measured: gross 5.23 J"), "{text}");
    let json = succeeds(&["wire", "decode", &hex, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["trust"], &json["message"]["Report"]["count"]), (&"not verified".into(), &30.into()));
    let forged = format!("{}00", &hex[..hex.len() - 2]);
    assert!(succeeds(&["wire", "decode", &forged, "--key", key]).starts_with("FORGED OR DAMAGED"));
    assert_eq!(pilotlight(&["wire", "decode", "ff00"]).status.code(), Some(1));
    assert_eq!(pilotlight(&["wire", "decode", "xyz"]).status.code(), Some(1));
}

/// The page in a real browser. `PILOTLIGHT_BLESS=1` takes the README's picture instead.
#[test]
fn the_web_page_shows_devices_energy_and_latency_in_a_browser() {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    }) else {
        println!("1 skipped: no Chromium on PATH; install Debian's package chromium");
        return;
    };
    let field = field();
    let (target, fleet) = (format!("udp://{}", field.udp), field.path("fleet.key"));
    // Some seconds of reports, so that the charts have points; the store writes roll-ups every five seconds.
    let speak =
        ["simulate-fleet", "--to", &target, "--key", &fleet, "--devices", "12", "--rate", "12", "--reports"];
    let bless = std::env::var_os("PILOTLIGHT_BLESS").is_some();
    let mut speaking = Vec::new();
    if bless {
        // The picture is of a fleet at work, and of this machine, which measures no energy, beside it.
        let key = field.path("77.key");
        succeeds(&["wire", "keygen", "--fleet", &fleet, "--device", "77", "--out", &key]);
        let plan = digits().with_file_name("../efficientnet-lite0/model.plan");
        let mut bench =
            vec!["bench", plan.to_str().unwrap(), "-n", "40000", "--telemetry", &target, "--key", &key];
        let state = field.path("state");
        bench.extend(["--telemetry-state", &state]);
        for words in [[&speak[..], &["300"]].concat(), bench] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
            command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
            speaking.push(Running(command.spawn().unwrap()));
        }
        std::thread::sleep(Duration::from_secs(60));
    } else {
        succeeds(&[&speak[..], &["8"]].concat());
    }
    until("roll-ups are written", || {
        get(field.web, "/api/series?device=1&level=1").is_some_and(|series| series.contains("start_ms"))
    });
    let url = format!("http://{}/", field.web);
    let run = |words: &[&str]| {
        let output = Command::new(browser)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
            ])
            .arg(format!("--user-data-dir={}", field.path("browser")))
            .args(["--virtual-time-budget=6000", "--window-size=1280,870"])
            .args(words)
            .arg(&url)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    if bless {
        let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../collector/docs/fleet.png");
        run(&[&format!("--screenshot={}", picture.display())]);
        return;
    }
    let page = run(&["--dump-dom"]);
    assert!(page.contains("<b>12</b> devices"), "{page}");
    let first = page.split("<tbody>").nth(1).and_then(|body| body.split("</tr>").next()).unwrap();
    assert!(first.contains("simulated") && first.contains("\u{b1}") && first.contains("modelled"), "{first}");
    let charts: Vec<&str> = page.split("<polyline points=\"").skip(1).collect();
    assert_eq!(charts.len(), 4, "gross, net, median, p99");
    for line in charts {
        let points = line.split('"').next().unwrap().split(' ').count();
        assert!(points >= 2, "{points} points");
    }
}
