//! The connections of clients: TLS, how many, and how slow.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use tagledger::server::config::TlsSettings;

use crate::certificates::{Files, write_private};
use crate::crash::Process;
use crate::stage::{Stage, digest};

fn client(files: &Files) -> reqwest::Client {
    let authority = reqwest::Certificate::from_pem(files.ca.pem().as_bytes()).expect("a certificate");
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]);
    // A new handshake for each request.
    client.pool_max_idle_per_host(0).build().expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_served_with_tls_and_a_new_certificate_is_taken_without_a_restart() {
    let files = Files::new();
    let served = TlsSettings { certificate: files.path("server.pem"), key: files.path("server.key"), client_ca: None };
    let stage = Stage::with(|settings| settings.tls = Some(served.clone())).await;
    let url = format!("https://localhost:{}/v2/team/app/manifests/v1", stage.gateway.address.port());
    let answer = client(&files).put(&url).body("one").send().await.expect("answered");
    assert_eq!((answer.status(), answer.version()), (StatusCode::CREATED, reqwest::Version::HTTP_11));
    assert_eq!(answer.headers()["location"], format!("/v2/team/app/manifests/{}", digest("one")));
    let headers = stage.registry.headers_of("PUT /v2/team/app/manifests/v1");
    assert_eq!(headers["x-forwarded-proto"], "https", "the registry builds its addresses of it");
    stage.agrees().await;

    let others = Files::new();
    assert!(client(&others).get(&url).send().await.is_err(), "of an authority that it does not have yet");
    files.serve(&others.ca.server());
    let begun = Instant::now();
    while client(&others).get(&url).send().await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(15), "the new certificate is served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_at_once_on_sighup_and_a_broken_one_is_not() {
    let mut all = vec![Files::new()];
    let stage = Stage::new().await;
    let files = &all[0];
    let (certificate, key) = (files.path("server.pem"), files.path("server.key"));
    let tls = format!("[tls]\ncertificate = '{}'\nkey = '{}'\n", certificate.display(), key.display());
    let gateway = Process::start_with(&stage, "secured", &tls);
    let url = format!("https://localhost:{}/healthz", gateway.address.port());
    let is_served = async |files: &Files| client(files).get(&url).send().await.is_ok();
    assert!(is_served(files).await);
    // The files are looked at every three seconds: three times in a row that alone would not be soon enough.
    for _ in 0..3 {
        let others = Files::new();
        std::fs::write(&certificate, "no certificate").expect("written");
        gateway.hang_up();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(is_served(all.last().expect("one")).await, "the one from before");
        let (chain, key_text) = others.ca.server();
        write_private(&key, &key_text);
        std::fs::write(&certificate, chain).expect("written");
        gateway.hang_up();
        let begun = Instant::now();
        while !is_served(&others).await {
            assert!(begun.elapsed() < Duration::from_millis(1_500), "the new certificate is served");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        all.push(others);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_connections_and_no_more_until_it_closes_some() {
    let stage = Stage::with(|settings| settings.connections_per_address = 3).await;
    let ask = |connection: &mut TcpStream| {
        connection.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        let mut answer = [0; 12];
        let sent = connection.write_all(b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n");
        sent.and_then(|()| connection.read_exact(&mut answer)).is_ok_and(|()| &answer == b"HTTP/1.1 200")
    };
    let connect = || TcpStream::connect(stage.gateway.address).expect("connected");
    let mut held: Vec<TcpStream> = (0..3).map(|_| connect()).collect();
    assert!(held.iter_mut().all(ask));
    assert!(!ask(&mut connect()), "one too many");
    held.pop();
    let begun = Instant::now();
    while !ask(&mut connect()) {
        assert!(begun.elapsed() < Duration::from_secs(5), "there is room again");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_rest_between_two_requests_as_long_as_is_configured() {
    let stage = Stage::with(|settings| (settings.begin_timeout_ms, settings.keep_alive_ms) = (200, 1_500)).await;
    let connect = || {
        let connection = TcpStream::connect(stage.gateway.address).expect("connected");
        connection.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        connection
    };
    let ask = |connection: &mut TcpStream| {
        connection.write_all(b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n").expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"alive\n") {
            let mut piece = [0; 512];
            let length = connection.read(&mut piece).expect("answered");
            assert!(length > 0, "the connection ended");
            answer.extend_from_slice(&piece[..length]);
        }
    };
    let ended = |mut connection: TcpStream| {
        let begun = Instant::now();
        assert_eq!(connection.read(&mut [0; 16]).expect("it ends"), 0);
        begun.elapsed()
    };
    let mut connection = connect();
    for _ in 0..3 {
        ask(&mut connection);
        std::thread::sleep(Duration::from_millis(700));
    }
    ask(&mut connection);
    assert!(ended(connection) >= Duration::from_millis(1_000), "it rested");
    // Who never begins is not waited for as long.
    assert!(ended(connect()) < Duration::from_millis(1_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_ends_its_connection_after_the_time_that_is_configured() {
    const LENGTH: u64 = 1 << 28;
    let stage = Stage::with(|settings| settings.unread_timeout_ms = 500).await;
    let mut connection = TcpStream::connect(stage.gateway.address).expect("connected");
    connection.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let path = format!("/v2/team/app/blobs/{}?length={LENGTH}", digest("huge"));
    let head = format!("GET {path} HTTP/1.1\r\nHost: g\r\n\r\n");
    connection.write_all(head.as_bytes()).expect("sent");
    std::thread::sleep(Duration::from_millis(2_000));
    let (mut taken, mut piece) = (0, vec![0; 1 << 20]);
    while let Ok(length @ 1..) = connection.read(&mut piece) {
        taken += length as u64;
    }
    assert!((1..LENGTH).contains(&taken), "{taken} bytes came");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_drips_ends_after_its_time_and_leaves_no_trace() {
    let stage = Stage::with(|settings| settings.manifest_timeout_ms = 600).await;
    let mut connection = TcpStream::connect(stage.gateway.address).expect("connected");
    connection.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    let head = b"PUT /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: g\r\nContent-Length: 1000\r\n\r\n";
    connection.write_all(head).expect("sent");
    let (begun, mut answer) = (Instant::now(), [0; 12]);
    while connection.read_exact(&mut answer).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "it goes on for ever");
        connection.write_all(b"x").expect("sent");
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!(stage.log().await.is_empty() && stage.registry.changes().is_empty());
}

#[tokio::test]
async fn what_clients_say_of_proxies_stays_here_and_a_proxy_is_believed() {
    let send = async |stage: &Stage| {
        let request = stage.client.get(stage.url("/v2/")).header("x-forwarded-host", "evil.example");
        let request = request.header("x-forwarded-proto", "https").header("forwarded", "host=evil.example");
        let request = request.header("x-forwarded-for", "192.0.2.7").header("x-forwarded-prefix", "/evil");
        assert_eq!(request.send().await.expect("answered").status(), StatusCode::OK);
        stage.registry.headers_of("GET /v2/")
    };
    let stage = Stage::new().await;
    let headers = send(&stage).await;
    assert_eq!(headers["x-forwarded-host"], stage.gateway.address.to_string());
    assert_eq!(
        (&headers["x-forwarded-proto"], &headers["x-forwarded-for"]),
        (&"http".parse().expect("a value"), &"127.0.0.1".parse().expect("a value"))
    );
    assert!(!headers.contains_key("forwarded") && !headers.contains_key("x-forwarded-prefix"));
    let stage = Stage::with(|settings| settings.proxies = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]).await;
    let headers = send(&stage).await;
    assert_eq!(headers["x-forwarded-host"], "evil.example");
    assert_eq!(headers["x-forwarded-for"], "192.0.2.7, 127.0.0.1");
    assert!(!headers.contains_key("forwarded"));
}
