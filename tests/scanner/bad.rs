//! Registries that answer slowly, wrongly or never: each a clear reason, in bounded time, and nothing half recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tagledger::edge::scanner::{Kind, Report};
use tagledger::edge::source::Credentials;

use crate::fake::{Asked, Fake, Says, digest_of};
use crate::stage::{Stage, found, only};

const APP: &str = "team/app";

/// The one thing that could not be gone through.
fn failure(report: &Report) -> String {
    assert!(!report.is_complete(), "{report:?}");
    let [failure] = report.failures.as_slice() else { panic!("{report:?}") };
    format!("{}: {}", failure.what, failure.reason)
}

fn list(asked: &Asked) -> bool {
    asked.path.contains("/tags/list")
}

#[tokio::test]
async fn a_slow_registry_is_waited_for() {
    let stage = Stage::new().await;
    for number in 0..8 {
        stage.fake.put(APP, &format!("v{number}"), "one");
    }
    stage.fake.says(|asked, _| {
        list(asked).then(|| Says {
            after: Duration::from_millis(200),
            ..Says::json(json!({ "tags": (0..8).map(|number| format!("v{number}")).collect::<Vec<_>>() }))
        })
    });
    let report = stage.scan().await;
    assert!(report.is_complete(), "{report:?}");
    stage.agrees().await;
}

#[tokio::test]
async fn a_registry_that_never_answers_is_given_up_and_gone_on_with_later() {
    let mut stage = Stage::new().await;
    stage.settings.client.timeout = Duration::from_millis(150);
    for number in 0..100 {
        stage.fake.put(APP, &format!("v{number}"), "one");
    }
    stage.fake.says(|asked, _| asked.is_look().then(|| Says { after: Duration::from_secs(60), ..Says::status(200) }));
    let began = Instant::now();
    let report = stage.scan().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(failure(&report), "the round: the registry does not answer; the next round goes on from here");
    assert!(report.count(Kind::Unreachable) < 20, "it is not asked for every tag");
    assert!(stage.observations().await.is_empty());
    // It does not even take connections.
    let address = stage.fake.address;
    stage.fake.address = "127.0.0.1:1".parse().expect("an address");
    let report = stage.scan().await;
    assert!(
        !report.is_complete() && report.failures.iter().any(|failure| failure.what == "the catalogue"),
        "{report:?}"
    );
    // It is back.
    stage.fake.address = address;
    stage.fake.is_honest();
    let report = stage.scan().await;
    assert!(report.is_complete() && report.agreed == 100, "{report:?}");
    stage.agrees().await;
}

#[tokio::test]
async fn a_digest_that_is_not_of_the_bytes_is_not_believed() {
    let stage = Stage::new().await;
    stage.fake.put(APP, "v1", "one");
    stage.fake.says(|asked, _| {
        let mut said = Says::status(200).with("docker-content-digest", digest_of("other"));
        said.body = b"one".to_vec();
        asked.is_look().then_some(said)
    });
    let report = stage.scan().await;
    let finding = only(&report, Kind::Unreachable);
    assert!(finding.reason.starts_with(&format!("it names {} for a manifest", digest_of("other"))), "{finding:?}");
    assert!(stage.observations().await.is_empty());
    // No digest at all: the bytes tell.
    stage.fake.says(|asked, _| {
        let mut said = Says::status(200);
        said.body = b"one".to_vec();
        asked.is_look().then_some(said)
    });
    assert_eq!(found(&stage.scan().await), ["unannounced app:v1"]);
    stage.fake.is_honest();
    stage.agrees().await;
}

#[tokio::test]
async fn bodies_without_end_are_not_read_to_their_end() {
    let mut stage = Stage::new().await;
    // So much takes longer than others may.
    stage.settings.client.timeout = Duration::from_secs(15);
    stage.fake.put(APP, "v1", "one");
    stage.fake.says(|asked, _| {
        let mut said = Says::status(200);
        said.body = vec![b'x'; 5 << 20];
        asked.is_look().then_some(said)
    });
    let report = stage.scan().await;
    assert_eq!(only(&report, Kind::Unreachable).reason, "its answer is longer than 4194304 bytes");
    stage.fake.says(|asked, _| {
        let mut said = Says::status(200);
        said.body = vec![b' '; 33 << 20];
        list(asked).then_some(said)
    });
    let report = stage.scan().await;
    assert_eq!(failure(&report), "the tags of team/app: its answer is longer than 33554432 bytes");
    assert!(stage.observations().await.is_empty());
}

/// The page of a list that is asked for after so many others.
type Page = Box<dyn Fn(usize) -> Says + Send>;

#[tokio::test]
async fn lists_without_end_end() {
    let mut stage = Stage::new().await;
    stage.settings.client.rate = Some(5000.0);
    stage.fake.put(APP, "v1", "one");
    let next = |last: &str| format!("</v2/{APP}/tags/list?last={last}>; rel=\"next\"");
    // Names that go on for ever, the same page for ever under new addresses, and a circle.
    let pages: [(Page, &str); 3] = [
        (
            Box::new(move |count| {
                Says::json(json!({ "tags": [format!("t{count}")] })).with("link", next(&count.to_string()))
            }),
            "20 pages were read",
        ),
        (
            Box::new(move |count| Says::json(json!({ "tags": ["v1"] })).with("link", next(&count.to_string()))),
            "page after page brings nothing new",
        ),
        (
            Box::new(move |count| Says::json(json!({ "tags": [format!("t{count}")] })).with("link", next("x"))),
            "it leads back to a page that was read",
        ),
    ];
    for (page, words) in pages {
        let listed = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&listed);
        stage.fake.says(move |asked, _| list(asked).then(|| page(counted.fetch_add(1, Ordering::SeqCst))));
        let report = stage.scan().await;
        assert_eq!(failure(&report), format!("the tags of team/app: its list does not end: {words}"));
        assert!(listed.load(Ordering::SeqCst) <= 20);
    }
    // What was listed so far was looked at all the same.
    assert_eq!(stage.observations().await.len(), 1);
    stage.agrees().await;
}

#[tokio::test]
async fn a_list_in_pages_is_one_set() {
    let stage = Stage::new().await;
    for tag in ["a", "b", "c"] {
        stage.fake.put(APP, tag, "one");
    }
    stage.fake.says(|asked, _| {
        let page = |tags: &[&str]| Says::json(json!({ "tags": tags }));
        match asked.path.as_str() {
            path if !path.contains("/tags/list") => None,
            path if path.contains("last=2") => Some(page(&["a", "c"])),
            path if path.contains("last=1") => Some(page(&["b", "c"]).with("link", "<?last=2>;rel=next")),
            _ => Some(page(&["c"]).with("link", "</v2/team/app/tags/list?last=1&n=1>; rel=\"next\"")),
        }
    });
    let report = stage.scan().await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(found(&report), ["unannounced app:a", "unannounced app:b", "unannounced app:c"]);
    stage.agrees().await;
}

#[tokio::test]
async fn a_list_is_not_followed_to_another_host_nor_are_redirects() {
    let mut stage = Stage::new().await;
    stage.credentials = Some(Credentials { user: "robot".into(), password: "pass".to_owned().into() });
    let elsewhere = Fake::new().await;
    elsewhere.put(APP, "evil", "evil");
    stage.fake.put(APP, "v1", "one");
    let other = elsewhere.url();
    stage.fake.says(move |asked, _| {
        let link = format!("<{other}/v2/{APP}/tags/list>; rel=\"next\"");
        list(asked).then(|| Says::json(json!({ "tags": ["v1"] })).with("link", link))
    });
    let report = stage.scan().await;
    assert_eq!(
        failure(&report),
        "the tags of team/app: its list goes on at another address, 127.0.0.1, which is not asked"
    );
    let other = elsewhere.url();
    stage.fake.says(move |asked, _| {
        let location = format!("{other}{}", asked.path);
        asked.is_look().then(|| Says::status(307).with("location", location))
    });
    let report = stage.scan().await;
    assert!(only(&report, Kind::Unreachable).reason.contains("points elsewhere"), "{report:?}");
    assert!(elsewhere.asked().is_empty());
}

#[tokio::test]
async fn a_registry_that_is_overloaded_gets_the_time_it_asks_for() {
    let stage = Stage::new().await;
    stage.fake.put(APP, "v1", "one");
    stage.fake.says(|asked, count| {
        (count == 0 && asked.path.contains("/_catalog")).then(|| Says::status(429).with("retry-after", "1"))
    });
    let began = Instant::now();
    let report = stage.scan().await;
    assert!(report.is_complete(), "{report:?}");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    // More than anybody waits for is a reason to end.
    stage.fake.says(|asked, _| asked.path.contains("/_catalog").then(|| Says::status(503).with("retry-after", "3600")));
    let report = stage.scan().await;
    assert!(failure(&report).contains("503 Service Unavailable, and asks to wait for 3600 s"), "{report:?}");
    assert_eq!(stage.fake.asked().iter().filter(|asked| asked.path.contains("/_catalog")).count(), 1);
    stage.agrees().await;
}

#[tokio::test]
async fn a_404_that_no_registry_wrote_is_no_absence() {
    let stage = Stage::new().await;
    let one = stage.fake.put(APP, "v1", "one");
    stage.scan().await;
    for code in [None, Some("DENIED"), Some("UNSUPPORTED")] {
        stage.fake.says(move |asked, _| {
            let said = code.map_or_else(
                || Says { body: b"<html><body>404 not found</body></html>".to_vec(), ..Says::status(404) },
                Says::unknown,
            );
            asked.is_look().then_some(said)
        });
        let report = stage.scan().await;
        assert!(only(&report, Kind::Unreachable).reason.contains("without a registry's error message"), "{report:?}");
        assert!(!report.is_complete());
        assert_eq!(stage.world.bound(APP, "v1").await, one);
    }
    // A catalogue that is none, and a list that is none.
    stage.fake.says(|asked, _| asked.path.contains("/_catalog").then(|| Says::status(404)));
    assert!(
        failure(&stage.scan().await).starts_with("the catalogue: it answers 404 Not Found; repositories can be named")
    );
    stage.fake.says(|asked, _| list(asked).then(|| Says { body: b"<html>".to_vec(), ..Says::status(200) }));
    assert_eq!(failure(&stage.scan().await), "the tags of team/app: it answers with something else than a list");
    stage.fake.is_honest();
    assert!(stage.scan().await.is_complete());
    stage.agrees().await;
}

#[tokio::test]
async fn names_that_are_none_are_left_out_and_said() {
    let stage = Stage::new().await;
    stage.fake.put(APP, "v1", "one");
    stage.fake.says(|asked, _| {
        if asked.path.contains("/_catalog") {
            return Some(Says::json(json!({ "repositories": ["Team/App", "../etc", APP, "a b"] })));
        }
        list(asked).then(|| Says::json(json!({ "tags": ["v1", "v1:2", "a/../b", "\u{1b}[2J"] })))
    });
    let report = stage.scan().await;
    assert!(report.is_complete(), "what cannot be named is no gap: {report:?}");
    assert_eq!(found(&report), ["unannounced app:v1"]);
    assert_eq!(report.failures.len(), 6, "{report:?}");
    assert!(stage.fake.asked().iter().all(|asked| !asked.path.contains("..") && !asked.path.contains("Team")));
}

/// A registry that gives nothing away without a token, and its realm.
fn guarded(registry: &Fake, realm: &Fake, named: String, life_s: u64) -> Arc<AtomicUsize> {
    let given = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&given);
    realm.says(move |asked, _| {
        // base64("robot:pass")
        if asked.header("authorization") != "Basic cm9ib3Q6cGFzcw==" {
            return Some(Says::status(401));
        }
        let scope = asked.path.split("scope=").nth(1).unwrap_or_default().to_owned();
        counted.fetch_add(1, Ordering::SeqCst);
        Some(Says::json(json!({ "token": format!("for-{}", scope.replace(['%', '&'], "-")), "expires_in": life_s })))
    });
    registry.says(move |asked, _| {
        let scope = if asked.path.contains("/_catalog") { "registry:catalog:*" } else { "repository:team/app:pull" };
        let encoded = scope.replace(':', "-3A").replace('/', "-2F").replace(['%', '&'], "-");
        let right = format!("Bearer for-{encoded}");
        if asked.header("authorization") == right {
            return None;
        }
        let challenge = format!("Bearer realm=\"{named}\",service=\"lab\",scope=\"{scope}\"");
        Some(Says::status(401).with("www-authenticate", challenge))
    });
    given
}

#[tokio::test]
async fn tokens_are_got_from_the_realm_once_for_each_scope() {
    let mut stage = Stage::new().await;
    stage.credentials = Some(Credentials { user: "robot".into(), password: "pass".to_owned().into() });
    for number in 0..20 {
        stage.fake.put(APP, &format!("v{number}"), "one");
    }
    let realm = Fake::new().await;
    stage.token_realm = Some(format!("{}/token", realm.url()));
    let given = guarded(&stage.fake, &realm, format!("{}/token", realm.url()), 300);
    let report = stage.scan().await;
    assert!(report.is_complete() && report.agreed == 20, "{report:?}");
    assert_eq!(given.load(Ordering::SeqCst), 2, "one for the catalogue, one for the repository");
    assert!(
        realm.asked().iter().all(|asked| asked.path.starts_with("/token?service=lab&scope=")),
        "{:?}",
        realm.asked()
    );
    stage.agrees().await;
}

#[tokio::test]
async fn a_token_that_is_no_good_any_more_is_renewed() {
    let mut stage = Stage::new().await;
    stage.credentials = Some(Credentials { user: "robot".into(), password: "pass".to_owned().into() });
    stage.include = vec![APP.into()];
    stage.fake.put(APP, "v1", "one");
    let realm = Fake::new().await;
    let named = realm.url();
    stage.token_realm = Some(format!("{named}/t"));
    // Each token is good for three requests.
    let uses = Arc::new(AtomicUsize::new(0));
    let (used, begun) = (Arc::clone(&uses), Arc::clone(&uses));
    realm.says(move |_, count| {
        begun.store(0, Ordering::SeqCst);
        Some(Says::json(json!({ "access_token": format!("t{count}") })))
    });
    stage.fake.says(move |asked, _| {
        let good = asked.header("authorization").starts_with("Bearer t") && used.fetch_add(1, Ordering::SeqCst) < 3;
        (!good).then(|| Says::status(401).with("www-authenticate", format!("Bearer realm=\"{named}/t\"")))
    });
    let report = stage.scan().await;
    assert!(report.is_complete(), "{report:?}");
    assert!(realm.asked().len() > 1);
    // One that never lets anybody in is not asked for ever.
    let named = realm.url();
    stage
        .fake
        .says(move |_, _| Some(Says::status(401).with("www-authenticate", format!("Bearer realm=\"{named}/t\""))));
    realm.forget();
    assert!(!stage.scan().await.is_complete());
    assert!(realm.asked().len() < 10, "{}", realm.asked().len());
}

#[tokio::test]
async fn credentials_go_to_no_realm_that_anybody_could_have_named_or_could_listen_to() {
    let mut stage = Stage::new().await;
    stage.credentials = Some(Credentials { user: "robot".into(), password: "pass".to_owned().into() });
    stage.fake.put(APP, "v1", "one");
    let realm = Fake::new().await;
    for (named, words) in [
        ("http://192.0.2.1/token".to_owned(), "is neither https nor on this machine"),
        ("ftp://127.0.0.1/token".to_owned(), "is neither https nor on this machine"),
        (format!("http://u:p@{}/token", realm.address), "its realm is not a plain address"),
        ("token".to_owned(), "its realm is not a URL"),
        // On this machine, and still somebody else's port.
        (format!("{}/token", realm.url()), "is another server, and reached by plain http"),
    ] {
        guarded(&stage.fake, &realm, named, 300);
        let report = stage.scan().await;
        assert!(failure(&report).contains(words), "{report:?}");
    }
    assert!(realm.asked().is_empty());
    stage.token_realm = Some(format!("{}/token", realm.url()));
    // A realm that gives no token, or no answer in JSON.
    for (said, words) in [
        (Says::status(403), "answers 403 Forbidden; configure a user that may pull"),
        (Says::json(json!({ "token": "" })), "answers without a token"),
        (Says { body: b"<html>".to_vec(), ..Says::status(200) }, "answers without a token"),
        (Says { body: vec![b' '; 2 << 20], ..Says::status(200) }, "longer than 1048576 bytes"),
    ] {
        guarded(&stage.fake, &realm, format!("{}/token", realm.url()), 300);
        realm.says(move |_, _| Some(said.clone()));
        let report = stage.scan().await;
        assert!(failure(&report).contains(words), "{report:?}");
    }
    assert!(stage.observations().await.is_empty());
}
