use clap::Parser;

use super::*;

#[expect(clippy::result_large_err, reason = "figment's own error type")]
fn load(file: &str, env: &[(&str, &str)], args: &[&str]) -> Result<Settings, String> {
    let mut out = Err(String::new());
    figment::Jail::expect_with(|jail| {
        jail.clear_env();
        jail.create_file("broker.toml", file)?;
        for (name, value) in env {
            jail.set_env(name, value);
        }
        let path = jail.directory().join("broker.toml");
        let config = ["plait-broker", "--config", &path.display().to_string()].map(str::to_owned);
        let args = config
            .into_iter()
            .chain(args.iter().map(|arg| (*arg).to_owned()));
        out = Settings::load(&Flags::parse_from(args)).map_err(|error| error.to_string());
        Ok(())
    });
    out
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file = "threads = 3\ndrain_grace = \"3s\"\nsync = \"none\"";
    let env = [
        ("PLAIT_BROKER_THREADS", "4"),
        ("PLAIT_BROKER_DRAIN_GRACE", "4s"),
    ];
    let settings = load(file, &env, &["--threads", "5"]).unwrap();
    assert_eq!(settings.threads, 5);
    assert_eq!(settings.drain_grace, Duration::from_secs(4));
    assert_eq!(settings.sync, SyncMode::None);
    assert_eq!(settings.payload_bytes_max, 1 << 20);
}

#[test]
fn unknown_keys_are_refused_by_name() {
    let error = load("thread = 3", &[], &[]).unwrap_err();
    assert!(
        error.contains("thread") && error.contains("broker.toml"),
        "{error}"
    );
    let error = load("", &[("PLAIT_BROKER_THREDS", "4")], &[]).unwrap_err();
    assert!(error.contains("threds"), "{error}");
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    let error = load("payload_bytes_max = 5", &[], &[]).unwrap_err();
    assert!(
        error.contains("payload_bytes_max") && error.contains("1024"),
        "{error}"
    );
    let error = load("heartbeat_interval = \"1ms\"", &[], &[]).unwrap_err();
    assert!(
        error.contains("heartbeat_interval") && error.contains("50ms"),
        "{error}"
    );
    let error = load("heartbeat_interval = \"soon\"", &[], &[]).unwrap_err();
    assert!(error.contains("500ms, 10s"), "{error}");
}

#[test]
fn a_named_file_must_exist() {
    let flags = Flags {
        config: Some(PathBuf::from("/nowhere/broker.toml")),
        ..Flags::default()
    };
    let error = Settings::load(&flags).unwrap_err().to_string();
    assert!(error.contains("/nowhere/broker.toml"), "{error}");
}
