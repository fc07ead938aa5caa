//! A corpus written by another program: `python/photographs.py` in a virtual environment of its own.

use std::io::Write;
use std::path::Path;
use std::process::Command;

const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/requirements.txt");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/photographs.py");

/// Writes `rows` crops of photographs as Parquet to `corpus`. The virtual environment is kept in
/// `cache`. `None`, and one line on stderr, where Python or its packages cannot be had.
#[must_use]
pub fn make(cache: &Path, corpus: &Path, rows: usize) -> Option<()> {
    let python = match environment(&cache.join("photographs-venv")) {
        Ok(python) => python,
        Err(reason) => {
            // Straight to stderr: the test harness hides what a passing test prints.
            let line = format!("skipped: the photographs need Python: {reason}\n");
            std::io::stderr()
                .write_all(line.as_bytes())
                .expect("stderr takes a line");
            return None;
        }
    };
    let rows = rows.to_string();
    let written = run(Command::new(python).arg(SCRIPT).arg(corpus).arg(rows));
    written.expect("with its packages there, the script works");
    Some(())
}

/// Python of a virtual environment that holds exactly the requirements.
fn environment(folder: &Path) -> Result<std::path::PathBuf, String> {
    let python = folder.join("bin/python");
    let wanted = std::fs::read(REQUIREMENTS).map_err(|error| error.to_string())?;
    // Written last, so an interrupted installation starts again.
    let installed = folder.join("installed-requirements.txt");
    if std::fs::read(&installed).is_ok_and(|there| there == wanted) {
        return Ok(python);
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(folder))?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--retries",
        "2",
        "--requirement",
    ];
    run(Command::new(&python).args(pip).arg(REQUIREMENTS))?;
    std::fs::write(installed, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

/// Runs to the end; an error is the last line the command wrote.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(text
        .lines()
        .last()
        .unwrap_or("it failed without a word")
        .to_owned())
}
