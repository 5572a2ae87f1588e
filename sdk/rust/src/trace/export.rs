//! Sends spans to a collector, by the standard `OTEL_*` variables.

use opentelemetry::global;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::env;
use tonic::Status;

/// What [`configure`] set up. Keep it and call [`Exporter::shutdown`] before the program ends, or the last spans are
/// lost.
#[derive(Debug)]
#[must_use = "shut it down before the program ends, or the last spans are lost"]
pub struct Exporter {
    provider: Option<SdkTracerProvider>,
}

/// Exports spans by OTLP over gRPC when `OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) is set
/// and `OTEL_SDK_DISABLED` is not `true`; else does nothing. `service_name` names this process unless
/// `OTEL_SERVICE_NAME` does. Sampling, batching and headers follow the standard variables. Needs a tokio runtime, and
/// is to be called before the first task is submitted or received.
///
/// # Errors
/// INVALID_ARGUMENT when the variables cannot be followed, such as an endpoint that is no URL.
///
/// ```no_run
/// # async fn example() -> Result<(), tonic::Status> {
/// let exporter = plait::trace::configure("ledger")?;
/// // ... the program ...
/// exporter.shutdown().await;
/// # Ok(())
/// # }
/// ```
pub fn configure(service_name: &str) -> Result<Exporter, Status> {
    if !is_wanted(|name| env::var(name).ok()) {
        return Ok(Exporter { provider: None });
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .build()
        .map_err(|error| {
            Status::invalid_argument(format!("setting up the export of spans: {error}"))
        })?;
    let mut resource = Resource::builder();
    if env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(service_name.to_owned());
    }
    let provider = SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_batch_exporter(exporter)
        .build();
    global::set_tracer_provider(provider.clone());
    Ok(Exporter {
        provider: Some(provider),
    })
}

fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name| variable(name).is_some_and(|value| !value.is_empty());
    let disabled =
        variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    !disabled && (set("OTEL_EXPORTER_OTLP_ENDPOINT") || set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
}

impl Exporter {
    /// Whether spans are exported.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.provider.is_some()
    }

    /// Sends what is left and stops. Takes at most the exporter's timeout, 10 s unless `OTEL_*` says otherwise. What
    /// could not be sent is logged.
    pub async fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        // The exporter needs this runtime while it flushes, so a thread of it must not be blocked here.
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_switches_the_export_on() {
        let wanted = |set: &[(&str, &str)]| {
            is_wanted(|name| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| (*value).to_owned())
            })
        };
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
        assert!(!wanted(&[]));
        assert!(!wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]));
        assert!(wanted(&[endpoint]));
        assert!(wanted(&[(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://localhost:4317"
        )]));
        assert!(!wanted(&[endpoint, ("OTEL_SDK_DISABLED", "True")]));
    }
}
