//! Golden files: what is printed is compared with what was looked at and found good.
//! `BEDPLATE_BLESS=1` takes what is printed now.

use std::path::Path;

pub fn check(name: &str, printed: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("BEDPLATE_BLESS").is_some() {
        std::fs::write(&path, printed).expect("golden file is written");
    }
    let golden = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(
        printed == golden,
        "{name} has changed; look at it, then BEDPLATE_BLESS=1 cargo test -p bedplate-control --test cli\n\
         --- golden\n{golden}\n--- printed\n{printed}"
    );
}
