use super::*;

fn parse(url: &str, environment: &[(&str, &str)]) -> Result<Options> {
    let environment = environment.iter().map(|(k, v)| (k.to_string(), v.to_string()));
    Options::parse(url, environment)
}

fn properties(url: &str, environment: &[(&str, &str)]) -> Vec<(String, String)> {
    parse(url, environment).unwrap().properties().unwrap()
}

fn has(properties: &[(String, String)], name: &str, value: &str) -> bool {
    let mut own = properties.iter().filter(|(of, _)| of == name);
    own.next().is_some_and(|(_, of)| of == value) && own.next().is_none()
}

/// A file of this test's own.
fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("millstream-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_url_names_brokers() {
    let found = properties("kafka://one:9092,10.0.0.2:19092,[::1]:9094,bare/", &[]);
    assert!(has(&found, "bootstrap.servers", "one:9092,10.0.0.2:19092,[::1]:9094,bare"));
    assert!(has(&found, "security.protocol", "PLAINTEXT"));
    for wrong in [
        "one:9092",
        "kafka://",
        "kafka://one:port",
        "kafka://one:0",
        "kafka://a b:1",
        "kafka://one:1,,two:2",
        "kafka://[one]:1",
        "kafka://one:1?client.id=%4",
    ] {
        let e = parse(wrong, &[]).unwrap_err();
        assert!(e.code() == Code::Input, "{wrong}: {e}");
    }
}

#[test]
fn later_ones_replace_earlier_ones() {
    let config = file(
        "order.properties",
        "# ours\nclient.id = file\nclient.rack=file\nsocket.keepalive.enable=true\n",
    );
    let url = "kafka://b:1?client.id=u%72l";
    let environment = [
        ("MILLSTREAM_KAFKA_CONFIG", config.to_str().unwrap()),
        ("MILLSTREAM_KAFKA_CLIENT_RACK", "variable"),
        ("MILLSTREAM_KAFKA_CLIENT_ID", "variable"),
        ("CLIENT_RACK", "nobody's"),
    ];
    let found = properties(url, &environment);
    assert!(has(&found, "client.id", "url") && has(&found, "client.rack", "variable"));
    assert!(
        has(&found, "socket.keepalive.enable", "true") && !found.iter().any(|(n, _)| n == "config")
    );
    std::fs::remove_file(config).unwrap();
}

#[test]
fn security_is_asked_for_by_what_is_there() {
    let found = properties("kafka://b:1?ssl.endpoint.identification.algorithm=https", &[]);
    assert!(has(&found, "security.protocol", "SSL"));
    let user = [("MILLSTREAM_KAFKA_SASL_PASSWORD", "pw")];
    let url = "kafka://b:1?sasl.mechanism=SCRAM-SHA-512&sasl.username=me";
    let found = properties(url, &user);
    assert!(has(&found, "security.protocol", "SASL_SSL") && has(&found, "sasl.password", "pw"));
    let plain = properties(&format!("{url}&security.protocol=sasl_plaintext"), &user);
    assert!(has(&plain, "security.protocol", "SASL_PLAINTEXT"));
}

#[test]
fn what_does_not_go_together_is_told() {
    const BEARER: &str = "sasl.mechanism=OAUTHBEARER";
    const URL: &str = "sasl.oauthbearer.token.endpoint.url";
    let bearer = |more: &str| format!("{BEARER}&{more}");
    let asked = bearer(&format!("{URL}=https://t/token"));
    let both = format!("{asked}&sasl.oauthbearer.token.file=Cargo.toml");
    let user = bearer(&format!("{URL}=https://me:hunter2@t/token"));
    let odd = bearer(&format!("{URL}=ftp://t"));
    let in_clear = bearer(&format!("{URL}=http://t/token"));
    let nearly = bearer(&format!("{URL}=http://127.0.0.1.t:80/token"));
    let held = bearer("sasl.oauthbearer.token.file=/no/such/token");
    let as_kafka_has_it = bearer(&format!("{URL}=file:///no/such/token"));
    let config = bearer("sasl.oauthbearer.assertion.algorithm=RS256");
    let pairs = bearer("sasl.oauthbearer.extensions=a1=b");
    let method = bearer("sasl.oauthbearer.method=other");
    for (query, said) in [
        ("sasl.username=me", "the option sasl.mechanism is missing"),
        ("sasl.mechanism=GSSAPI", "GSSAPI, which is not known here"),
        ("sasl.mechanism=PLAIN&sasl.username=me", "needs the option sasl.password"),
        ("sasl.mechanisms=OAUTHBEARER", "needs a place that tokens come from"),
        (&asked, "needs the option sasl.oauthbearer.client.id"),
        (&format!("{asked}&sasl.oauthbearer.client.id=me"), "oauthbearer.client.secret.file=PATH"),
        (&both, "there are both"),
        (&user, "names a user"),
        (&odd, "begins with https://"),
        (&in_clear, "http://t/token: the client's secret would go there in the clear"),
        (&nearly, "in the clear"),
        (&held, "sasl.oauthbearer.token, in /no/such/token"),
        (&as_kafka_has_it, "sasl.oauthbearer.token, in /no/such/token"),
        (&config, "assertion.algorithm is not known here"),
        (&pairs, "extensions is not name=value"),
        (&method, "possible: default, oidc"),
        ("security.protocol=TLS", "possible: PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ("security.protocol=PLAINTEXT&ssl.ca.location=/", "there are ssl options"),
        ("security.protocol=SSL&sasl.username=me", "there are sasl options"),
        ("ssl.ca.location=/no/such/ca.pem", "ssl.ca.location, /no/such/ca.pem"),
        ("ssl.key.password.file=/no/such/file", "ssl.key.password, in /no/such/file"),
    ] {
        let url = format!("kafka://b:1?{query}");
        let e = parse(&url, &[]).and_then(|options| options.properties()).unwrap_err();
        assert!(e.to_string().contains(said), "{query}: {e}");
        assert!(!e.advice().is_empty(), "{e}");
    }
}

#[test]
fn only_this_machine_is_asked_for_tokens_without_tls() {
    let options = |endpoint: &str| {
        let url = format!(
            "kafka://b:1?sasl.mechanism=OAUTHBEARER&sasl.oauthbearer.client.id=me\
             &sasl.oauthbearer.token.endpoint.url={endpoint}"
        );
        let secret = [("MILLSTREAM_KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET", "hunter2")];
        parse(&url, &secret).unwrap().properties()
    };
    for fine in [
        "https://t/token",
        "http://localhost",
        "http://LocalHost:8080/token",
        "http://127.0.0.1/token?scope=a:b",
        "http://127.9.9.9:80",
        "http://[::1]/token",
        "http://[::1]:8080/token",
    ] {
        options(fine).unwrap_or_else(|e| panic!("{fine}: {e}"));
    }
    for wrong in [
        "http://",
        "http://10.0.0.1/token",
        "http://0.0.0.0/token",
        "http://t/localhost",
        "http://t?127.0.0.1",
        "http://localhost.t/token",
        "http://127.0.0.1%2et/token",
        "http://127.0.0.1\\t/token",
        "http://[::1]t/token",
        "http://[::2]/token",
    ] {
        let e = options(wrong).unwrap_err();
        assert!(e.code() == Code::Input && e.message().contains("in the clear"), "{wrong}: {e}");
        assert!(e.advice().iter().any(|advice| advice.contains("https://")), "{e}");
    }
}

#[test]
fn files_of_tokens_are_named_not_read() {
    let token = file("token", "first");
    let url = format!(
        "kafka://b:1?sasl.mechanism=OAUTHBEARER&sasl.oauthbearer.token.endpoint.url=file://{}",
        token.display()
    );
    let found = properties(&url, &[]);
    assert!(has(&found, "security.protocol", "SASL_SSL"));
    assert!(has(&found, "sasl.oauthbearer.token.file", token.to_str().unwrap()));
    assert!(!found.iter().any(|(_, value)| value == "first"));
    std::fs::remove_file(token).unwrap();
}

#[test]
fn what_would_break_a_guarantee_is_refused() {
    for name in [
        "enable.idempotence",
        "isolation.level",
        "transactional.id",
        "acks",
        "request.required.acks",
        "auto.offset.reset",
        "group.id",
        "bootstrap.servers",
        "plugin.library.paths",
        "max.in.flight",
        "enable.auto.commit",
        "acks.file",
    ] {
        let e = parse(&format!("kafka://b:1?{name}=1"), &[]).unwrap_err();
        assert!(e.message().contains("cannot be set"), "{e}");
        let variable = variable(name);
        assert!(parse("kafka://b:1", &[(&variable, "1")]).is_err(), "{variable}");
    }
    let names: Vec<_> = known::PROTOCOLS.iter().collect();
    assert_eq!(names.len(), 4);
}

#[test]
fn secrets_show_nowhere() {
    const SECRET: &str = "hunter2";
    let config =
        file("secret.properties", &format!("sasl.password={SECRET}\nssl.key.pem={SECRET}\n"));
    let held = file("secret", &format!("{SECRET}\n"));
    let url = format!(
        "kafka://b:1?sasl.mechanism=PLAIN&sasl.username=me&config={}&ssl.key.password.file={}",
        config.display(),
        held.display()
    );
    let environment = [("MILLSTREAM_KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET", SECRET)];
    let options = parse(&url, &environment).unwrap();
    let shown = format!("{options} {options:?} {options:#?}");
    assert!(!shown.contains(SECRET) && shown.contains("(secret)"), "{shown}");
    let found = options.properties().unwrap();
    for name in
        ["sasl.password", "ssl.key.pem", "ssl.key.password", "sasl.oauthbearer.client.secret"]
    {
        assert!(has(&found, name, SECRET), "{name}: only here");
    }
    for url in [
        "kafka://b:1?sasl.password=hunter2",
        "kafka://me:hunter2@b:1",
        "kafka://b:1?ssl.key.password=hunter2",
        "kafka://b:1?sasl.oauthbearer.client.secret=hunter2",
    ] {
        let e = parse(url, &[]).unwrap_err();
        assert!(!e.to_string().contains(SECRET), "{e}");
    }
    std::fs::write(&config, SECRET).unwrap();
    let e = parse(&url, &[]).unwrap_err();
    assert!(e.message().contains("line 1") && !e.to_string().contains(SECRET), "{e}");
    [config, held].iter().for_each(|path| std::fs::remove_file(path).unwrap());
}
