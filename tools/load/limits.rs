//! What the machine can do at best, measured beside the ledger: so figures of two machines compare.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use tonic::transport::{Channel, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::Failure;
use crate::drive::{Watch, ask_again};

const ENTRY: usize = 400;

/// All of them.
pub(crate) async fn limits(folder: &Path) -> Result<Value, Failure> {
    let signed = signing();
    let echo_1 = echo(1, Duration::from_secs(1)).await?;
    let echo_64 = echo(64, Duration::from_secs(2)).await?;
    Ok(json!({
        "synced_write_us": round(synced_write_us(folder)?),
        "sign_us": round(signed.0),
        "verify_us": round(signed.1),
        "sha256_400_us": round(hashing_us()),
        "echo_1_us": round(echo_1.0),
        "echo_64_per_s": echo_64.1.round(),
    }))
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn timed(mut times: usize, mut act: impl FnMut()) -> f64 {
    let mut all = Vec::with_capacity(times);
    while times > 0 {
        let begun = Instant::now();
        act();
        all.push(begun.elapsed().as_secs_f64() * 1e6);
        times -= 1;
    }
    median(all)
}

/// An entry appended to a file, and synced.
fn synced_write_us(folder: &Path) -> Result<f64, Failure> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut failed = None;
    let us = timed(2000, || {
        if let Err(error) = file.write_all(&[7; ENTRY]).and_then(|()| file.sync_data()) {
            failed = Some(error);
        }
    });
    failed.map_or(Ok(us), |error| Err(error.into()))
}

/// Ed25519: signing, and verifying strictly.
fn signing() -> (f64, f64) {
    let key = SigningKey::from_bytes(&[7; 32]);
    let message = [7; ENTRY];
    let sign = timed(2000, || {
        let _ = std::hint::black_box(key.sign(&message));
    });
    let signature = key.sign(&message);
    let verify = timed(2000, || key.verifying_key().verify_strict(&message, &signature).expect("it is"));
    (sign, verify)
}

fn hashing_us() -> f64 {
    use sha2::{Digest as _, Sha256};
    timed(2000, || {
        for _ in 0..10 {
            let _ = std::hint::black_box(Sha256::digest(std::hint::black_box([7; ENTRY])));
        }
    }) / 10.0
}

/// The smallest gRPC call there is, over loopback to another process: median in microseconds, and calls a second.
async fn echo(clients: usize, time: Duration) -> Result<(f64, f64), Failure> {
    let mut child =
        Command::new(std::env::current_exe()?).arg("echo").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut address = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().expect("piped")), &mut address)?;
    let measured = ask_echo(address.trim().to_owned(), clients, time).await;
    child.kill()?;
    child.wait()?;
    measured
}

async fn ask_echo(address: String, clients: usize, time: Duration) -> Result<(f64, f64), Failure> {
    let watch = Watch::new();
    let mut asking = Vec::new();
    let mut channels = Vec::new();
    for _ in 0..clients.min(8) {
        channels.push(Channel::from_shared(address.clone())?.tcp_nodelay(true).connect().await?);
    }
    for number in 0..clients {
        let client = HealthClient::new(channels[number % channels.len()].clone());
        asking.push(tokio::spawn(ask_again(std::sync::Arc::clone(&watch), move || {
            let mut client = client.clone();
            async move {
                client.check(HealthCheckRequest::default()).await?;
                Ok(1)
            }
        })));
    }
    let elapsed = watch.run(Duration::from_millis(300), time, || Ok(())).await?;
    let (mut count, mut latency) = (0, crate::drive::histogram());
    for asked in asking {
        let (answers, seen) = asked.await??;
        count += answers;
        latency.add(seen)?;
    }
    Ok((latency.value_at_quantile(0.5) as f64 / 1000.0, count as f64 / elapsed.as_secs_f64()))
}

/// The other process.
pub(crate) async fn serve_echo() -> Result<(), Failure> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let (_, service) = tonic_health::server::health_reporter();
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder().add_service(service).serve_with_incoming(incoming).await?;
    Ok(())
}
