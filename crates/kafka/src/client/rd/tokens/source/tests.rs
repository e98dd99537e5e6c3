use super::*;

fn token(claims: &str) -> String {
    let url = |text: &str| encode(text.as_bytes()).replace('+', "-").replace('/', "_");
    format!("{}.{}.", url("{}"), url(claims)).replace('=', "")
}

#[test]
fn base64_is_as_the_rfc_has_it() {
    for (plain, coded) in
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
    {
        assert_eq!(encode(plain.as_bytes()), coded);
        assert_eq!(decode(coded).unwrap(), plain.as_bytes());
    }
    assert_eq!(decode("-_-_").unwrap(), [0xfb, 0xff, 0xbf]);
    assert!(decode("a b").is_none());
}

#[test]
fn a_token_says_when_it_expires_or_is_none() {
    let new = |text: &str| Token::new(text, "it".into(), &[]);
    let fine = new(&token(r#"{"exp":1.5,"sub":"alice"}"#)).ok().unwrap();
    assert_eq!((fine.expires, fine.name.as_str()), (Time::from_ms(1500), "alice"));
    let never = new(&token(r#"{"exp":1e300}"#)).ok().unwrap();
    assert!(never.expires.ms() * 1000 > 0, "librdkafka counts in microseconds");
    for bad in ["", "secret", "se.cret", "se.cr et.", "a.b.c.d", &token(r#"{"exp":"secret"}"#)] {
        let e = new(bad).err().unwrap();
        assert!(e.code() == Code::Permission && !e.to_string().contains("secret"), "{e}");
    }
}

#[test]
fn only_what_is_about_tokens_is_taken() {
    let pair = |(name, value): (&str, &str)| (name.to_string(), value.to_string());
    let other = [("sasl.mechanism", "PLAIN"), ("sasl.oauthbearer.token", "t")].map(pair);
    let mut given = other.to_vec();
    assert!(Source::take(&mut given).unwrap().is_none());
    assert_eq!(given, other);
    let mut given = [
        ("sasl.mechanism", "OAUTHBEARER"),
        ("sasl.oauthbearer.token", "t"),
        ("sasl.oauthbearer.extensions", "a=b,c=d=e"),
        ("https.ca.pem", "unused"),
    ]
    .map(pair)
    .to_vec();
    let source = Source::take(&mut given).unwrap().unwrap();
    assert_eq!(source.extensions, [("a", "b"), ("c", "d=e")].map(pair));
    assert_eq!(given, [("sasl.mechanism", "OAUTHBEARER")].map(pair));
}
