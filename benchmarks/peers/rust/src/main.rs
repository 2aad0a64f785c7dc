//! Peer (i): a gateway in Rust, of axum and librdkafka.
//!
//! `POST /patientprofile` takes one update or an array, validates as the project does,
//! and answers once all in-sync replicas have acknowledged.

mod profile;

use std::{env, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
    serve::ListenerExt,
};
use rdkafka::{
    config::ClientConfig,
    producer::{DeliveryFuture, FutureProducer, FutureRecord},
};
use serde::Serialize;
use tokio::{net::TcpListener, runtime, time::sleep};

use profile::Profile;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const THREADS: usize = 2;
const TOPIC_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA"; // as long as a real one

#[derive(Serialize)]
#[allow(non_snake_case)]
struct Receipt<'a> {
    PatientId: &'a str,
    Partition: i32,
    Offset: i64,
    Receipt: String,
}

struct Gateway {
    producer: FutureProducer,
    topic: String,
}

fn main() {
    let gateway = Arc::new(Gateway {
        producer: producer(),
        topic: variable("KAFKA_TOPIC"),
    });
    let app = Router::new()
        .route("/patientprofile", post(take))
        .layer(DefaultBodyLimit::max(16 << 20))
        .with_state(gateway);
    let mut threads = runtime::Builder::new_multi_thread();
    let runtime = threads
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async move {
        let address = format!("127.0.0.1:{}", variable("PORT"));
        let listener = TcpListener::bind(address).await.unwrap();
        let listener = listener.tap_io(|socket| socket.set_nodelay(true).unwrap());
        axum::serve(listener, app).await.unwrap();
    });
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

fn producer() -> FutureProducer {
    ClientConfig::new()
        .set("bootstrap.servers", variable("KAFKA_BOOTSTRAP_SERVERS"))
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "0")
        .set("delivery.timeout.ms", "3500")
        .set("queue.buffering.max.messages", "200000")
        .create()
        .unwrap()
}

async fn take(State(gateway): State<Arc<Gateway>>, body: Bytes) -> Response {
    let answer = if body.first() == Some(&b'[') {
        take_array(&gateway, &body).await
    } else {
        take_one(&gateway, &body).await
    };
    match answer {
        Ok(json) => (
            StatusCode::ACCEPTED,
            [(header::CONTENT_TYPE, "application/json")],
            json,
        )
            .into_response(),
        Err(status) => status.into_response(),
    }
}

async fn take_one(gateway: &Gateway, body: &[u8]) -> Result<Vec<u8>, StatusCode> {
    let profile: Profile = read(body)?;
    if !profile.is_valid() {
        return Err(StatusCode::BAD_REQUEST);
    }
    let report = gateway.send(&profile, &mut Vec::new()).await;
    Ok(serde_json::to_vec(&receipt(&profile, report).await?).unwrap())
}

async fn take_array(gateway: &Gateway, body: &[u8]) -> Result<Vec<u8>, StatusCode> {
    let profiles: Vec<Profile> = read(body)?;
    if !profiles.iter().all(Profile::is_valid) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let mut reports = Vec::with_capacity(profiles.len());
    let mut buffer = Vec::new();
    for profile in &profiles {
        reports.push(gateway.send(profile, &mut buffer).await);
    }
    let mut receipts = Vec::with_capacity(profiles.len());
    for (profile, report) in profiles.iter().zip(reports) {
        receipts.push(receipt(profile, report).await?);
    }
    Ok(serde_json::to_vec(&receipts).unwrap())
}

fn read<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, StatusCode> {
    serde_json::from_slice(body).map_err(|_| StatusCode::BAD_REQUEST)
}

impl Gateway {
    /// Hands a record to librdkafka, and waits while its queue is full.
    async fn send(&self, profile: &Profile, buffer: &mut Vec<u8>) -> DeliveryFuture {
        buffer.clear();
        serde_json::to_writer(&mut *buffer, profile).unwrap();
        let record = || {
            FutureRecord::to(&self.topic)
                .key(&profile.PatientId)
                .payload(&*buffer)
        };
        loop {
            match self.producer.send_result(record()) {
                Ok(report) => return report,
                Err(_) => sleep(Duration::from_millis(2)).await,
            }
        }
    }
}

async fn receipt<'a>(
    profile: &'a Profile,
    report: DeliveryFuture,
) -> Result<Receipt<'a>, StatusCode> {
    let Ok(Ok(stored)) = report.await else {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    };
    Ok(Receipt {
        PatientId: &profile.PatientId,
        Partition: stored.partition,
        Offset: stored.offset,
        Receipt: format!("{TOPIC_ID}.{}.{}", stored.partition, stored.offset),
    })
}
