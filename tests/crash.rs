//! A server killed in the middle of appends: what it acknowledged is there, byte for byte, and its log goes on.

mod world;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::merkle::proof::verify_consistency;
use tagledger::proto;
use tagledger::proto::append_service_client::AppendServiceClient;
use tonic::Request;
use tonic::transport::Channel;
use world::{World, digest, happened, submission};

/// Starts the real binary, and returns it with the address it says it serves on.
fn start(data_dir: &Path) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tagledgerd"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data_dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it greets");
    let address = line.trim().rsplit(' ').next().expect("an address").to_owned();
    assert!(address.starts_with("http://127.0.0.1:"), "greeted with {line:?}");
    (child, address)
}

/// What was acknowledged: entries by index, and checkpoints.
#[derive(Default)]
struct Acknowledged {
    entries: BTreeMap<u64, Vec<u8>>,
    checkpoints: Vec<String>,
}

async fn append_until_it_dies(address: String, token: String, writer: u64, seen: Arc<Mutex<Acknowledged>>) {
    let Ok(channel) = Channel::from_shared(address).expect("an address").connect().await else { return };
    let mut client = AppendServiceClient::new(channel);
    for n in 0.. {
        let digit = char::from_digit(u32::try_from(n % 16).expect("small"), 16).expect("a digit");
        let statement = happened(&format!("writer{writer}"), &digest(digit));
        let mut request = Request::new(proto::AppendRequest { submission: Some(submission(&statement)) });
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        let Ok(response) = client.append(request).await else { return };
        let evidence = response.into_inner().evidence.expect("evidence");
        let mut seen = seen.lock().expect("not poisoned");
        for entry in evidence.entries {
            let earlier = seen.entries.insert(entry.index, entry.entry);
            assert!(earlier.is_none(), "index {} was acknowledged twice", entry.index);
        }
        seen.checkpoints.push(evidence.checkpoint);
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("ledger");
    let seen = Arc::new(Mutex::new(Acknowledged::default()));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for round in 0..5 {
        let (mut server, address) = start(&data_dir);
        let token = std::fs::read_to_string(data_dir.join("token")).expect("a token").trim().to_owned();
        runtime.block_on(async {
            let writers: Vec<_> = (0..8)
                .map(|writer| {
                    let seen = Arc::clone(&seen);
                    tokio::spawn(append_until_it_dies(address.clone(), token.clone(), writer, seen))
                })
                .collect();
            // The kill falls into the middle of appends, each round into another moment of it.
            let enough = seen.lock().expect("not poisoned").entries.len() + 40;
            let patience = tokio::time::Instant::now() + Duration::from_secs(30);
            while seen.lock().expect("not poisoned").entries.len() < enough {
                assert!(tokio::time::Instant::now() < patience, "round {round}: nothing is acknowledged");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(7 * round)).await;
            // SIGKILL: nothing is flushed, nobody is told.
            server.kill().expect("it runs");
            for writer in writers {
                writer.await.expect("a writer only ends when the server does");
            }
        });
        server.wait().expect("it was killed");
    }
    let seen = std::mem::take(&mut *seen.lock().expect("not poisoned"));
    assert!(seen.entries.len() > 100, "only {} entries were acknowledged", seen.entries.len());
    runtime.block_on(async {
        let world = World::open(&data_dir).await;
        let entries = world.check_ledger().await;
        for (index, acknowledged) in &seen.entries {
            let found = usize::try_from(*index).ok().and_then(|index| entries.get(index));
            assert_eq!(found, Some(acknowledged), "entry {index}");
        }
        for note in seen.checkpoints.iter().step_by(7).chain(seen.checkpoints.last()) {
            let old = Checkpoint::open(note, &world.vkey).expect("signed by this ledger");
            let request = proto::GetConsistencyProofRequest { first: old.size, second: 0 };
            let answer = world.log().get_consistency_proof(request).await.expect("a proof").into_inner();
            let hash = |bytes: &Vec<u8>| -> [u8; 32] { bytes.as_slice().try_into().expect("32 bytes") };
            let path: Vec<_> = answer.hashes.iter().map(hash).collect();
            verify_consistency(old.size, answer.second, &old.root, &hash(&answer.second_root), &path)
                .expect("no signed checkpoint is contradicted");
        }
        world.stop().await;
    });
}
