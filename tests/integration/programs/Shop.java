/* A program on JDBC: prepared statements, batches, transactions, COPY, cancel, and its errors. */

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.Properties;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;
import org.postgresql.PGStatement;
import org.postgresql.copy.CopyManager;

public class Shop {
    static final int ROWS = 2000;
    static final long CANCEL_MS = 10_000;

    static void check(boolean right, String what) {
        if (!right) throw new AssertionError(what);
    }

    static Connection connect(String... more) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("currentSchema", System.getenv("SCHEMA"));
        for (int i = 0; i < more.length; i += 2) properties.setProperty(more[i], more[i + 1]);
        return DriverManager.getConnection(
                "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT")
                        + "/" + System.getenv("PGDATABASE"),
                properties);
    }

    static long number(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getLong(1);
        }
    }

    static void batches(Connection connection) throws SQLException {
        connection.createStatement().execute("create table item (id int primary key, name text)");
        connection.setAutoCommit(false);
        try (PreparedStatement insert =
                connection.prepareStatement("insert into item values (?, ?)")) {
            for (int i = 0; i < ROWS; i++) {
                insert.setInt(1, i);
                insert.setString(2, "item " + i);
                insert.addBatch();
            }
            check(insert.executeBatch().length == ROWS, "batch");
            connection.commit();
            insert.setInt(1, ROWS);
            insert.setString(2, "new");
            insert.addBatch();
            insert.setInt(1, 1);
            insert.setString(2, "twice");
            insert.addBatch();
            insert.executeBatch();
            check(false, "there are two of a key");
        } catch (BatchUpdateException error) {
            check(error.getSQLState().equals("23505"), error.toString());
            connection.rollback();
        }
        connection.setAutoCommit(true);
        check(number(connection, "select count(*) from item") == ROWS, "rolled back");
    }

    static void preparedByTheServer(Connection connection) throws SQLException {
        try (PreparedStatement select =
                connection.prepareStatement("select name from item where id = ?")) {
            for (int i = 0; i < 20; i++) {
                select.setInt(1, i);
                try (ResultSet rows = select.executeQuery()) {
                    check(rows.next() && rows.getString(1).equals("item " + i), "item " + i);
                }
            }
            check(select.unwrap(PGStatement.class).isUseServerPrepare(), "prepared by the server");
        }
        check(number(connection, "select count(*) from pg_prepared_statements") > 0, "kept");
    }

    static void transactions(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        Statement statement = connection.createStatement();
        statement.executeUpdate("insert into item values (-1, 'kept')");
        Savepoint savepoint = connection.setSavepoint();
        try {
            statement.executeUpdate("insert into item values (-1, 'twice')");
            check(false, "there are two of a key");
        } catch (SQLException error) {
            check(error.getSQLState().equals("23505"), error.toString());
            connection.rollback(savepoint);
        }
        connection.commit();
        statement.setFetchSize(100); // by a portal
        try (ResultSet rows = statement.executeQuery("select id from item order by id")) {
            int seen = 0;
            while (rows.next()) seen++;
            check(seen == ROWS + 1, "by pieces: " + seen);
        }
        connection.rollback();
        connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        connection.setAutoCommit(true);
    }

    /** With autosave a statement that failed does not spoil its transaction. */
    static void autosave() throws SQLException {
        for (String mode : new String[] {"always", "conservative"}) {
            try (Connection connection = connect("autosave", mode)) {
                connection.setAutoCommit(false);
                Statement statement = connection.createStatement();
                statement.executeUpdate("update item set name = '" + mode + "' where id = -1");
                try {
                    statement.executeQuery("select 1/0");
                } catch (SQLException error) {
                    check(error.getSQLState().equals("22012"), error.toString());
                    if (mode.equals("conservative")) connection.rollback();
                }
                check(number(connection, "select 1") == 1, mode);
                connection.commit();
            }
        }
    }

    static void copy(Connection connection) throws Exception {
        CopyManager copies = connection.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder lines = new StringBuilder();
        for (int i = 0; i < 50_000; i++) lines.append(10_000 + i).append("\tcopied\n");
        check(copies.copyIn("copy item from stdin", new StringReader(lines.toString())) == 50_000, "in");
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        copies.copyOut("copy (select * from item where id >= 10000 order by id) to stdout", out);
        check(out.toString(StandardCharsets.UTF_8).equals(lines.toString()), "out");
        try {
            copies.copyIn("copy item from stdin", new StringReader("1\ttwice\n"));
            check(false, "there are two of a key");
        } catch (SQLException error) {
            check(error.getSQLState().equals("23505"), error.toString());
        }
        check(number(connection, "select count(*) from item where id >= 10000") == 50_000, "after it");
    }

    /** The request to cancel is a connection of its own, which the balancer leads elsewhere. */
    static void cancel(Connection connection) throws Exception {
        ScheduledExecutorService later = Executors.newScheduledThreadPool(1);
        try (Statement statement = connection.createStatement()) {
            for (int i = 0; i < 3; i++) {
                long began = System.nanoTime();
                later.schedule(() -> { statement.cancel(); return null; }, 300, TimeUnit.MILLISECONDS);
                try {
                    statement.executeQuery("select pg_sleep(30)");
                    check(false, "it was not cancelled");
                } catch (SQLException error) {
                    check(error.getSQLState().equals("57014"), error.toString());
                }
                check(System.nanoTime() - began < CANCEL_MS * 1_000_000, "it took too long");
            }
            statement.setQueryTimeout(1); // a timer of the driver cancels
            try {
                statement.executeQuery("select pg_sleep(30)");
                check(false, "it was not cancelled");
            } catch (SQLException error) {
                check(error.getSQLState().equals("57014"), error.toString());
            }
        } finally {
            later.shutdown();
        }
        check(connection.isValid(5), "valid");
    }

    static void errors(Connection connection) throws SQLException {
        String[][] wrong = {
            {"select 1/0", "22012"}, {"selec", "42601"}, {"table nowhere", "42P01"},
            {"select 'x'::int", "22P02"},
        };
        for (String[] pair : wrong) {
            try (PreparedStatement statement = connection.prepareStatement(pair[0])) {
                statement.execute();
                check(false, pair[0]);
            } catch (SQLException error) {
                check(error.getSQLState().equals(pair[1]), pair[0] + ": " + error);
            }
        }
        try (Statement statement = connection.createStatement()) {
            statement.execute("do $$ begin raise warning 'mind the gap'; end $$");
            check(statement.getWarnings().getMessage().equals("mind the gap"), "warning");
            check(statement.execute("select 1; select 2"), "two results");
            check(statement.getMoreResults(), "the second");
        }
        try (Connection refused = connect("password", "wrong")) {
            check(false, "logged in with a wrong password");
        } catch (SQLException error) {
            check(error.getSQLState().equals("28P01"), error.toString());
        }
    }

    static void notifications(Connection connection) throws SQLException {
        try (Connection telling = connect()) {
            connection.createStatement().execute("listen jdbc_news");
            telling.createStatement().execute("notify jdbc_news, 'hello'");
            var heard = connection.unwrap(PGConnection.class).getNotifications(10_000);
            check(heard.length == 1 && heard[0].getParameter().equals("hello"), "notification");
            connection.createStatement().execute("unlisten *");
        }
    }

    public static void main(String[] arguments) throws Exception {
        try (Connection connection = connect("ApplicationName", "shop")) {
            batches(connection);
            preparedByTheServer(connection);
            transactions(connection);
            autosave();
            copy(connection);
            cancel(connection);
            errors(connection);
            notifications(connection);
            check(connection.isValid(5), "valid");
        }
        for (String mode : new String[] {"simple", "extended", "extendedForPrepared"}) {
            try (Connection connection = connect("preferQueryMode", mode, "binaryTransfer", "true")) {
                for (int i = 0; i < 8; i++) {
                    try (PreparedStatement select =
                            connection.prepareStatement("select ?::int + 1, now(), ?::text")) {
                        select.setInt(1, i);
                        select.setString(2, mode);
                        ResultSet rows = select.executeQuery();
                        check(rows.next() && rows.getInt(1) == i + 1, mode);
                        check(rows.getString(3).equals(mode), mode);
                    }
                }
            }
        }
        System.out.println("all done");
    }
}
